
/* A frame is complete, and its product is in state->gates. */
static void step(ttrnn_state *state)
{
    for (int number = 0; number < NUM_LAYERS; number++) {
        const struct layer *layer = layers + number;
        if (number > 0) {
            push_values(state, &layer->ih, state->gates, state->h[number - 1], HIDDEN);
        }
        add_offset(state, layer, number);
        push_values(state, &layer->hh, state->u, state->h[number], HIDDEN);
        advance(state, layer, number);
        memset(state->gates, 0, sizeof state->gates);
        memset(state->u, 0, sizeof state->u);
    }
    pool(state);
    if (state->num_frames < UINT32_MAX) {
        state->num_frames++;
    }
}
