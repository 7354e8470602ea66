
static Sum *sums_of(ttrnn_state *state, const struct product *product, int k, Sum *result)
{
    return k == 0 ? result : state->levels + product->levels[k].offset;
}

/* The last input mode has run through: adds each t_k that is complete to the one before. Between products all are zero. */
static void complete(ttrnn_state *state, const struct product *product, Sum *result)
{
    for (int k = product->num_levels - 1;; k--) {
        const struct level *level = product->levels + k;
        Sum *t = sums_of(state, product, k, result);
        for (int row = 0, i = 0; row < level->rows; row++) {
            for (int j = 0; j < level->rest; j++, i++) {
                t[i] = SETTLE(t[i] CENTRED, level, row);
            }
        }
        state->counts[k] = 0;
        if (k == 0) {
            return;
        }
        add_level(sums_of(state, product, k - 1, result), level - 1, state->counts[k - 1], t);
        memset(t, 0, sizeof(Sum) * level->rows * level->rest);
        if (++state->counts[k - 1] < level[-1].in_mode) {
            return;
        }
    }
}
