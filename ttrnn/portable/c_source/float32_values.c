
/* sums += weights[first..first + count) x; a row of weights for each value. */
static void add_NAME(Sum *sums, const struct level *level, int first, const TYPE *x, int count)
{
    const int rows = level->rows;
    const Weight *weights = level->weights + first * rows;
    for (int i = 0; i < count; i++, weights += rows) {
        const Sum value = x[i];
        for (int row = 0; row < rows; row++) {
            sums[row] += weights[row] * value;
        }
    }
}
