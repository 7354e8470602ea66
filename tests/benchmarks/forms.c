/* The fastest of ROUNDS passes over frames from standard input, in us a frame. */
#include "model.h"
#include <stdio.h>
#include <time.h>

#define MOST 64

int main(void)
{
    static ttrnn_state state;
    static uint8_t frames[MOST][TTRNN_HEIGHT * TTRNN_WIDTH * TTRNN_CHANNELS];
    ttrnn_score scores[TTRNN_CLASSES];
    const size_t count = fread(frames, sizeof frames[0], MOST, stdin);
    double fastest = 1e9;
    ttrnn_reset(&state);
    for (int round = 0; round < ROUNDS && count; round++) {
        const clock_t start = clock();
        double us;
        for (size_t i = 0; i < count; i++) {
            ttrnn_frame(&state, frames[i]);
            ttrnn_scores(&state, scores);
        }
        us = 1e6 * (double)(clock() - start) / CLOCKS_PER_SEC / (double)count;
        fastest = us < fastest ? us : fastest;
    }
    printf("%f\n", fastest);
    return 0;
}
