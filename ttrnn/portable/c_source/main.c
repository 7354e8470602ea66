/* Classifies raw frames from standard input: the label and its score for each frame.
   ffmpeg -v error -i clip.avi -vf scale=WIDTH:HEIGHT -pix_fmt FORMAT -f rawvideo - | ./model */
#include "model.h"
#include <stdio.h>

int main(void)
{
    static ttrnn_state state;
    static uint8_t frame[TTRNN_HEIGHT * TTRNN_WIDTH * TTRNN_CHANNELS];
    ttrnn_score scores[TTRNN_CLASSES];
    size_t size;
    ttrnn_reset(&state);
    while ((size = fread(frame, 1, sizeof frame, stdin)) == sizeof frame) {
        int best = 0;
        ttrnn_frame(&state, frame);
        ttrnn_scores(&state, scores);
        for (int i = 1; i < TTRNN_CLASSES; i++) {
            best = scores[i] > scores[best] ? i : best;
        }
        printf("%s %.4f\n", ttrnn_classes[best], scores[best] / (double)TTRNN_SCORE_ONE);
        fflush(stdout);
    }
    if (size > 0) {
        fprintf(stderr, "the last frame has %lu bytes, not %lu\n", (unsigned long)size, (unsigned long)sizeof frame);
    }
    return size > 0 ? 1 : 0;
}
