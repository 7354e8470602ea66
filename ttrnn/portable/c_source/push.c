
/* result += W x, of which the next `count` values of x are given; the memory of the result is zero at the start. */
static void push_NAME(ttrnn_state *state, const struct product *product, Sum *result, const TYPE *x, int count)
{
    const int last = product->num_levels - 1;
    const struct level *level = product->levels + last;
    while (count > 0) {
        int run = level->in_mode - state->counts[last];
        run = run < count ? run : count;
        add_NAME(sums_of(state, product, last, result), level, state->counts[last], x, run);
        x += run;
        count -= run;
        state->counts[last] = (uint16_t)(state->counts[last] + run);
        if (state->counts[last] == level->in_mode) {
            complete(state, product, result);
        }
    }
}
