
/* The first layer takes only what moved since the frame before. */
static void add_offset(ttrnn_state *state, const struct layer *layer, int number)
{
    for (int i = 0; i < GATES; i++) {
        if (number == 0) {
            const Sum moved = state->gates[i];
            state->gates[i] = layer->bias[i] + (state->num_frames ? moved - state->previous[i] : 0);
            state->previous[i] = moved;
        } else {
            state->gates[i] += layer->offset[i];
        }
    }
}
