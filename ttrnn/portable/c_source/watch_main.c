/* Finds events in raw frames from standard input: a line when one is detected, and one when it is over.
   ffmpeg -v error -i stream.avi -vf scale=WIDTH:HEIGHT -pix_fmt FORMAT -f rawvideo - | ./model */
#include "model.h"
#include <stdio.h>

static void print_over(int label, const ttrnn_event *event)
{
    printf("%s over: frames %lu to %lu, score %.4f\n", ttrnn_classes[label], (unsigned long)event->start,
           (unsigned long)(event->end - 1), event->score / (double)TTRNN_SCORE_ONE);
}

int main(void)
{
    static ttrnn_watch watch;
    static uint8_t frame[TTRNN_HEIGHT * TTRNN_WIDTH * TTRNN_CHANNELS];
    size_t size;
    ttrnn_watch_reset(&watch);
    while ((size = fread(frame, 1, sizeof frame, stdin)) == sizeof frame) {
        ttrnn_watch_frame(&watch, frame);
        for (int i = 0; i < TTRNN_CLASSES; i++) {
            if (watch.is_over[i]) {
                print_over(i, watch.over + i);
            }
            if (watch.has_started[i]) {
                printf("%s detected at frame %lu\n", ttrnn_classes[i], (unsigned long)watch.events[i].detected);
            }
        }
        fflush(stdout);
    }
    for (int i = 0; i < TTRNN_CLASSES; i++) {
        if (watch.is_open[i]) {
            print_over(i, watch.events + i);
        }
    }
    if (size > 0) {
        fprintf(stderr, "the last frame has %lu bytes, not %lu\n", (unsigned long)size, (unsigned long)sizeof frame);
    }
    return size > 0 ? 1 : 0;
}
