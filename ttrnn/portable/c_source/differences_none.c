
static void add_offset(ttrnn_state *state, const struct layer *layer, int number)
{
    (void)number;
    for (int i = 0; i < GATES; i++) {
        state->gates[i] += layer->offset[i];
    }
}
