
static void pool(ttrnn_state *state) { add_to_total(state, ONE, ONE); }
