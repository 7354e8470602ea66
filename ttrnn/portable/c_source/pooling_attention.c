
/* A softmax over time, relative to the highest score so far. */
static void pool(ttrnn_state *state)
{
    Sum score = 0, highest;
    add_values(&score, &query, 0, state->h[NUM_LAYERS - 1], HIDDEN);
    score = SETTLE(score, &query, 0);
    highest = state->num_frames == 0 || score > state->peak ? score : state->peak;
    add_to_total(state, state->num_frames == 0 ? 0 : exponential(highest - state->peak), exponential(highest - score));
    state->peak = highest;
}
