/* The sums of characteristic.py, and their gradient, each in one pass over the projections.

   Projections are float [batch, slices]. A lane of a vector is a slice; a tile of vectors stays in the cache while the batch
   goes by. The caller gives each thread slices of its own. Vectors are those of GCC and Clang, whatever the processor's. */

#include <string.h>

#if defined(__AVX512F__)
#define LANES 16
#elif defined(__AVX__)
#define LANES 8
#else
#define LANES 4
#endif
#define TILE 8   /* vectors side by side: one row of them is a few neighbouring cache lines */
#define ROWS 128 /* added up as float, then as double: rounding does not grow with the batch */
#define MOST_KNOTS 64

typedef float vec __attribute__((vector_size(4 * LANES)));
typedef int ivec __attribute__((vector_size(4 * LANES)));

static inline vec pick(ivec where, vec yes, vec no) { return (vec)(((ivec)yes & where) | ((ivec)no & ~where)); }

/* Sine and cosine to about 1e-7 for |x| < 8192 (Cody and Waite's reduction to [-pi/4, pi/4], then Cephes' polynomials). */
static inline void sine_cosine(vec x, vec *sine, vec *cosine)
{
    vec turns = (x * 0.636619772f + 12582912.f) - 12582912.f; /* nearest whole number of quarter turns */
    vec y = ((x - turns * 1.5703125f) - turns * 4.837512969970703125e-4f) - turns * 7.549789948768648e-8f;
    vec z = y * y;
    vec s = y + y * z * (-1.6666654611e-1f + z * (8.3321608736e-3f + z * -1.9515295891e-4f));
    vec c = 1 - 0.5f * z + z * z * (4.166664568298827e-2f + z * (-1.388731625493765e-3f + z * 2.443315711809948e-5f));
    ivec quarter = __builtin_convertvector(turns, ivec);
    ivec odd = (quarter & 1) != 0;
    *sine = (vec)((ivec)pick(odd, c, s) ^ ((quarter & 2) << 30));
    *cosine = (vec)((ivec)pick(odd, s, c) ^ (((quarter + 1) & 2) << 30));
}

static inline vec load(const float *from, long count)
{
    vec x = {0};
    if (count >= LANES)
        memcpy(&x, from, sizeof x);
    else if (count > 0)
        memcpy(&x, from, 4 * count);
    return x;
}

static inline void store(float *to, vec x, long count)
{
    if (count > 0)
        memcpy(to, &x, 4 * (count < LANES ? count : LANES));
}

/* sums[0][k][m] = sum over n of cos(k spacing x), sums[1][k][m] of sin, for slices from `first` up to `last`. */
void characteristic_sums(const float *x, double *sums, long batch, long slices, long first, long last, int knots, float spacing)
{
    double *cosines = sums, *sines = sums + knots * slices;
    for (long m = first; m < last; m += LANES * TILE) {
        long width = last - m < LANES * TILE ? last - m : LANES * TILE;
        for (long start = 0; start < batch; start += ROWS) {
            vec total_c[TILE][MOST_KNOTS] = {{{0}}}, total_s[TILE][MOST_KNOTS] = {{{0}}};
            for (long n = start; n < batch && n < start + ROWS; n++)
                for (int tile = 0; tile * LANES < width; tile++) {
                    vec c1, s1, c = {0}, s = {0};
                    sine_cosine(load(x + n * slices + m + tile * LANES, width - tile * LANES) * spacing, &s1, &c1);
                    c += 1;
                    for (int k = 0; k < knots; k++) {
                        total_c[tile][k] += c;
                        total_s[tile][k] += s;
                        vec next = c * c1 - s * s1; /* exp(i (k + 1) x) = exp(i k x) exp(i x) */
                        s = c * s1 + s * c1;
                        c = next;
                    }
                }
            for (int k = 0; k < knots; k++)
                for (long v = 0; v < width; v++) {
                    cosines[k * slices + m + v] += total_c[v / LANES][k][v % LANES];
                    sines[k * slices + m + v] += total_s[v / LANES][k][v % LANES];
                }
        }
    }
}

/* grad[n][m] = real part of sum over k of (real + i imaginary)[k][m] exp(i k spacing x), by Horner's rule. */
void characteristic_gradient(const float *x, const float *real, const float *imaginary, float *grad, long batch, long slices,
                             long first, long last, int knots, float spacing)
{
    for (long m = first; m < last; m += LANES * TILE) {
        long width = last - m < LANES * TILE ? last - m : LANES * TILE;
        vec a0[TILE][MOST_KNOTS], b0[TILE][MOST_KNOTS];
        for (int tile = 0; tile * LANES < width; tile++)
            for (int k = 0; k < knots; k++) {
                a0[tile][k] = load(real + k * slices + m + tile * LANES, width - tile * LANES);
                b0[tile][k] = load(imaginary + k * slices + m + tile * LANES, width - tile * LANES);
            }
        for (long n = 0; n < batch; n++)
            for (int tile = 0; tile * LANES < width; tile++) {
                long left = width - tile * LANES;
                vec c1, s1, a = {0}, b = {0};
                sine_cosine(load(x + n * slices + m + tile * LANES, left) * spacing, &s1, &c1);
                for (int k = knots - 1; k >= 0; k--) {
                    vec next = a * c1 - b * s1 + a0[tile][k];
                    b = a * s1 + b * c1 + b0[tile][k];
                    a = next;
                }
                store(grad + n * slices + m + tile * LANES, a, left);
            }
    }
}
