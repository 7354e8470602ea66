/* Arithmetic in float32. */
typedef float Weight;
typedef float Value;
typedef float Sum;

#define SCALING
#define SETTLE(sum, part, row) (sum)
#define CENTRED
#define BOUNDED(x) (x)
#define TO_GATE(x) (x)
#define RATIO(total, weight) ((total) / (weight))
#define ONE 1.0f
#define UNIT 1.0f
/* From this sum of weights on, all before counts half: float32 would soon take no more ones. */
#define MOST_WEIGHT 8388608.0f

static float multiply(float a, float b) { return a * b; }

static float tangent(float x) { return tanhf(x); }

static float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

static float exponential(float x) { return expf(-x); }
