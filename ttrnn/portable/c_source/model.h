/* @title@
   @classes@ classes; frames of @WIDTH@x@HEIGHT@ pixels, @pixels@, row by row.
   Memory: a state of @ram@ bytes, and about @stack@ on the stack.
   Flash: @constants@ bytes of constants, and 2 to 6 kB of code.
   @macs@ multiply-adds a frame. Weights: @params@ in @dtype@.
   @accuracy@ */
#ifndef TTRNN_MODEL_H
#define TTRNN_MODEL_H

#include <stdint.h>

#define TTRNN_WIDTH @WIDTH@
#define TTRNN_HEIGHT @HEIGHT@
#define TTRNN_CHANNELS @CHANNELS@
#define TTRNN_CLASSES @classes@
#define TTRNN_SCORE_ONE @one@ /* a probability of 1 */

typedef @Sum@ ttrnn_sum;
typedef @Score@ ttrnn_score;

/* All that is known of a stream. One for each camera; nothing else is kept. */
typedef struct {
@state@
} ttrnn_state;

extern const char *const ttrnn_classes[TTRNN_CLASSES];

/* Starts a stream. Call it before anything else. */
void ttrnn_reset(ttrnn_state *state);

/* Takes one more line of a frame, TTRNN_WIDTH * TTRNN_CHANNELS values; returns 1 if the frame is complete, else 0. */
int ttrnn_line(ttrnn_state *state, const uint8_t *pixels);

/* Takes all lines of a frame, between frames only. */
void ttrnn_frame(ttrnn_state *state, const uint8_t *pixels);

/* Probabilities given all complete frames so far, in the order of ttrnn_classes; 0 before the first. */
void ttrnn_scores(const ttrnn_state *state, ttrnn_score *scores);

/* The same before softmax or sigmoid@logits@. */
void ttrnn_logits(const ttrnn_state *state, ttrnn_sum *logits);

@watch@#endif
