
static Value pooled(const ttrnn_state *state, int i) { return RATIO(state->total[i], state->weight); }

static void add_to_total(ttrnn_state *state, Sum before, Sum now)
{
    const Value *h = state->h[NUM_LAYERS - 1];
    const int divisor = state->weight < MOST_WEIGHT ? 1 : 2;
    state->weight = multiply(before, state->weight / divisor) + now;
    for (int i = 0; i < HIDDEN; i++) {
        state->total[i] = multiply(before, state->total[i] / divisor) + multiply(now, h[i]);
    }
}
