/* Runs the frames of frames.h, prints the logits after each in hexadecimal, and how many instructions a frame takes.
   QEMU's -icount shift=0 lets an instruction take 1 ns; SysTick counts at 25 MHz, once in 40 instructions. */
#include "frames.h"
#include "model.h"
#include <stdio.h>

#define SYSTICK ((volatile uint32_t *)0xE000E010)

extern void _start(void);
extern uint32_t __stack;

__attribute__((section(".vectors"), used)) static const void *const vectors[] = {&__stack, (const void *)_start};

int main(void)
{
    static ttrnn_state state;
    int32_t logits[TTRNN_CLASSES];
    uint32_t ticks = 0;
    SYSTICK[1] = 0xFFFFFF;
    SYSTICK[2] = 0;
    SYSTICK[0] = 5;
    ttrnn_reset(&state);
    for (unsigned frame = 0; frame < NUM_FRAMES; frame++) {
        const uint32_t start = SYSTICK[2];
        ttrnn_frame(&state, frames + frame * TTRNN_HEIGHT * TTRNN_WIDTH * TTRNN_CHANNELS);
        ticks += (start - SYSTICK[2]) & 0xFFFFFF;
        ttrnn_logits(&state, logits);
        for (int i = 0; i < TTRNN_CLASSES; i++) {
            printf("%08lx ", (unsigned long)(uint32_t)logits[i]);
        }
        printf("\n");
    }
    printf("instructions a frame: %lu\n", (unsigned long)(ticks * (uint64_t)40 / NUM_FRAMES));
    return 0;
}
