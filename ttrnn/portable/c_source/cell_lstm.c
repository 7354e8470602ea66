
static void advance(ttrnn_state *state, const struct layer *layer, int number)
{
    const Sum *x = state->gates, *u = state->u;
    Sum *c = state->c[number];
    (void)layer;
    for (int i = 0; i < HIDDEN; i++) {
        const Sum in = sigmoid(x[i] + u[i]);
        const Sum forget = sigmoid(x[HIDDEN + i] + u[HIDDEN + i]);
        const Sum g = tangent(x[2 * HIDDEN + i] + u[2 * HIDDEN + i]);
        const Sum out = sigmoid(x[3 * HIDDEN + i] + u[3 * HIDDEN + i]);
        c[i] = BOUNDED(multiply(forget, c[i]) + TO_GATE(multiply(in, g)));
        state->h[number][i] = (Value)multiply(out, tangent(c[i]));
    }
}
