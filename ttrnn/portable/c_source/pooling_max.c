
static void pool(ttrnn_state *state)
{
    const Value *h = state->h[NUM_LAYERS - 1];
    for (int i = 0; i < HIDDEN; i++) {
        if (state->num_frames == 0 || h[i] > state->highest[i]) {
            state->highest[i] = h[i];
        }
    }
}

static Value pooled(const ttrnn_state *state, int i) { return state->highest[i]; }
