
/* The first layer takes a frame and what moved since the one before, which the last GATES products are for. */
static void add_offset(ttrnn_state *state, const struct layer *layer, int number)
{
    for (int i = 0; i < GATES; i++) {
        state->gates[i] += layer->offset[i];
        if (number == 0) {
            const Sum moved = state->gates[GATES + i];
            state->gates[i] += layer->bias[i] + (state->num_frames ? moved - state->previous[i] : 0);
            state->previous[i] = moved;
        }
    }
}
