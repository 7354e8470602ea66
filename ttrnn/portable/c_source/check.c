/* For each clip from standard input (its number of frames in 4 bytes, little-endian, then the frames): writes logits and
   scores before the first frame and after each. */
#include "model.h"
#include <stdio.h>

int main(void)
{
    static ttrnn_state state;
    static uint8_t frame[TTRNN_HEIGHT * TTRNN_WIDTH * TTRNN_CHANNELS];
    ttrnn_sum logits[TTRNN_CLASSES];
    ttrnn_score scores[TTRNN_CLASSES];
    uint8_t size[4];
    while (fread(size, 1, 4, stdin) == 4) {
        uint32_t num_frames = size[0] | size[1] << 8 | (uint32_t)size[2] << 16 | (uint32_t)size[3] << 24;
        ttrnn_reset(&state);
        for (;; num_frames--) {
            ttrnn_logits(&state, logits);
            ttrnn_scores(&state, scores);
            fwrite(logits, sizeof logits, 1, stdout);
            fwrite(scores, sizeof scores, 1, stdout);
            if (num_frames == 0) {
                break;
            }
            if (fread(frame, sizeof frame, 1, stdin) != 1) {
                return 1;
            }
            ttrnn_frame(&state, frame);
        }
    }
    return 0;
}
