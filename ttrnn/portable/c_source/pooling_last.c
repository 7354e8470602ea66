
static void pool(ttrnn_state *state) { (void)state; }

static Value pooled(const ttrnn_state *state, int i) { return state->h[NUM_LAYERS - 1][i]; }
