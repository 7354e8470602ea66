
/* sums += weights[first..first + count) x; the weights of a row are contiguous. */
static void add_NAME(Sum *sums, const struct level *level, int first, const TYPE *x, int count)
{
    const Weight *weights = level->weights + first;
    for (int row = 0; row < level->rows; row++, weights += level->in_mode) {
        Sum sum = 0;
        for (int i = 0; i < count; i++) {
            sum += (Sum)weights[i] * x[i];
        }
        sums[row] += sum;
    }
}
