/* Arithmetic in integers: weights int8, values int16, sums int32. States are in units of 2^-15, gates and logits in units
   of 2^-16. No sum overflows: weights were rounded to values that are too small for it. int has 32 bits. */
typedef int8_t Weight;
typedef int16_t Value;
typedef int32_t Sum;

#define SCALING                                                             \
    const int32_t *multipliers; /* one for each row */                      \
    const int32_t *centres;     /* what the mean pixel adds to each row */       \
    int32_t limit;                                                          \
    uint8_t shift;
#define SETTLE(sum, part, row) settled(sum, (part)->multipliers[row], (part)->shift, (part)->limit)
#define CENTRED -(level->centres ? level->centres[row] : 0)
#define BOUNDED(x) clamped(x, 1L << 22)
#define TO_GATE(x) (2 * (x))
#define RATIO(total, weight) (Value)clamped((int64_t)(total) * 32768 / (weight), 32767)
#define ONE 32768
#define UNIT 64
/* From this sum of weights on, all before counts half. */
#define MOST_WEIGHT (1L << 30)

static int32_t clamped(int64_t x, int32_t limit) { return x > limit ? limit : x < -limit ? -limit : (int32_t)x; }

/* x / 2^shift, rounded, half up; |x| < 2^62. C99 leaves it open how a negative number is shifted. */
static int64_t shifted(int64_t x, int shift)
{
    const int64_t most = (int64_t)1 << 62;
    return (int64_t)(((uint64_t)(x + most) + ((uint64_t)1 << (shift - 1))) >> shift) - (most >> shift);
}

static int32_t settled(Sum sum, int32_t multiplier, int shift, int32_t limit)
{
    return clamped(shifted((int64_t)sum * multiplier, shift), limit);
}

static int32_t multiply(int32_t a, int32_t b) { return (int32_t)shifted((int64_t)a * b, 15); }

/* Of tanh_table, whose steps are 2^bits wide. */
static int32_t interpolated(int32_t x, int bits)
{
    const int16_t *low = tanh_table + (x >> bits);
    return low[0] + (((low[1] - low[0]) * (x & ((1 << bits) - 1)) + (1 << (bits - 1))) >> bits);
}

static int32_t tangent(int32_t x)
{
    const int32_t size = x < 0 ? -x : x, y = size < 8L << 16 ? interpolated(size, 11) : 32767;
    return x < 0 ? -y : y;
}

/* (1 + tanh(x / 2)) / 2 */
static int32_t sigmoid(int32_t x)
{
    const int32_t size = x < 0 ? -x : x, y = size < 16L << 16 ? interpolated(size, 12) : 32767;
    return x < 0 ? 32768 - ((32768 + y) >> 1) : (32768 + y) >> 1;
}

/* exp(-x) in units of 2^-15, of x >= 0 in units of 2^-16. */
static int32_t exponential(int32_t x)
{
    const uint32_t power = (uint32_t)(((uint64_t)x * 94548) >> 16), part = power & 1023;
    const uint16_t *high = power_table + ((power >> 10) & 63);
    return power >> 20 ? 0 : (int32_t)((high[0] - (((high[0] - high[1]) * part + 512) >> 10)) >> (power >> 16));
}
