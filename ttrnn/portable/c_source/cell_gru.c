
static void advance(ttrnn_state *state, const struct layer *layer, int number)
{
    const Sum *x = state->gates, *u = state->u;
    Value *h = state->h[number];
    for (int i = 0; i < HIDDEN; i++) {
        const Sum r = sigmoid(x[i] + u[i]);
        const Sum z = sigmoid(x[HIDDEN + i] + u[HIDDEN + i]);
        const Sum n = tangent(x[2 * HIDDEN + i] + multiply(r, u[2 * HIDDEN + i] + layer->bias_hn[i]));
        h[i] = (Value)(n + multiply(z, h[i] - n));
    }
}
