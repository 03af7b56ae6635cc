// The arithmetic of Winograd's F(4x4, 3x3): a tile of 4x4 results takes 36 products for each pair of channels, so 2.25
// for each result instead of the 4 of F(2x2, 3x3).
//
// Its transforms make errors of rounding several times as large, too large for bfloat16's 8 bits. But the processor
// multiplies pairs of 16-bit integers and adds them to 32-bit ones as fast (vpdpwssd). So both factors are brought to a
// fixed point, each tile of inputs and each kernel by a scale of its own, as large as these let it be:
// - The rows of both transforms have length one, so a transformed value is no larger than the length of the vector of
//   the values that it was made of, and a vector of them (over some channels, at one position) than that of all these.
// - A sum of products is at most the product of both vectors' lengths (Cauchy and Schwarz). With LONGEST_INPUT and
//   LONGEST_KERNEL that is less than 2^31 over CHANNELS channels, after which sums go on in float32. No sum overflows,
//   whatever the input.
// The rounding to a fixed point that this leaves is a third of bfloat16's, and the convolution's error is smaller than
// F(2x2, 3x3)'s.

#pragma once

#include <cmath>

#include "common.h"

static constexpr int SIDE = 6, PRODUCTS = SIDE * SIDE;
static constexpr long CHANNELS = 256;  // inputs whose products are added as integers
static constexpr float LONGEST_INPUT = 65000, LONGEST_KERNEL = 32700, LARGEST = 32700;

// The transforms evaluate polynomials at 0, A, -A, B, -B and infinity. These points make the smallest error: it is half
// that of the usual 1 and 2.
static constexpr float A = 0.625f, B = 1.5f, A2 = A * A, B2 = B * B;

// What makes the length of each transform's rows one, and what makes up for it in the results.
static const struct Factors {
    float input[PRODUCTS], kernel[PRODUCTS], result[4];  // of results: at 0, +-A, +-B, infinity
    Factors() {
        const double a = A, b = B, a2 = a * a, b2 = b * b;
        const double ends = 1 / std::sqrt(a2 * b2 * a2 * b2 + (a2 + b2) * (a2 + b2) + 1);
        auto middle = [](double own, double other) {  // of the rows at +-own
            return 1 / std::sqrt((own * own + 1) * (other * other * other * other + 1));
        };
        auto powers = [](double point) { return 1 / std::sqrt(1 + point * point + point * point * point * point); };
        const double in[SIDE] = {ends, middle(a, b), middle(a, b), middle(b, a), middle(b, a), ends};
        const double of[SIDE] = {1, powers(a), powers(a), powers(b), powers(b), 1};
        for (int p = 0; p < PRODUCTS; p++) {
            input[p] = (float)(in[p / SIDE] * in[p % SIDE]);
            kernel[p] = (float)(of[p / SIDE] * of[p % SIDE]);
        }
        // Lagrange's denominators: each point's distances to the others, multiplied.
        result[0] = (float)(1 / (in[0] * of[0] * a2 * b2));
        result[1] = (float)(1 / (in[1] * of[1] * 2 * a2 * (a2 - b2)));
        result[2] = (float)(1 / (in[3] * of[3] * 2 * b2 * (b2 - a2)));
        result[3] = (float)(1 / (in[5] * of[5]));
    }
} factors;

static inline vec all(float x) { return _mm512_set1_ps(x); }

// Six inputs in a row, `step` apart when they are put down: the coefficients of Lagrange's polynomials, transposed.
static inline __attribute__((always_inline)) void transform_six(const vec d[SIDE], vec* out, long step) {
    const vec ends = all(A2 + B2), last = all(A2 * B2);
    out[0] = _mm512_fmadd_ps(last, d[0], _mm512_fnmadd_ps(ends, d[2], d[4]));
    out[5 * step] = _mm512_fmadd_ps(last, d[1], _mm512_fnmadd_ps(ends, d[3], d[5]));
    const vec even_a = _mm512_fnmadd_ps(all(B2), d[2], d[4]), odd_a = _mm512_fnmadd_ps(all(B2), d[1], d[3]);
    out[step] = _mm512_fmadd_ps(all(A), odd_a, even_a);
    out[2 * step] = _mm512_fnmadd_ps(all(A), odd_a, even_a);
    const vec even_b = _mm512_fnmadd_ps(all(A2), d[2], d[4]), odd_b = _mm512_fnmadd_ps(all(A2), d[1], d[3]);
    out[3 * step] = _mm512_fmadd_ps(all(B), odd_b, even_b);
    out[4 * step] = _mm512_fnmadd_ps(all(B), odd_b, even_b);
}

// A kernel's three values: the polynomial that they are the coefficients of, at the points.
static inline __attribute__((always_inline)) void transform_three(const vec g[3], vec* out, long step) {
    out[0] = g[0];
    const vec even_a = _mm512_fmadd_ps(all(A2), g[2], g[0]), even_b = _mm512_fmadd_ps(all(B2), g[2], g[0]);
    out[step] = _mm512_fmadd_ps(all(A), g[1], even_a);
    out[2 * step] = _mm512_fnmadd_ps(all(A), g[1], even_a);
    out[3 * step] = _mm512_fmadd_ps(all(B), g[1], even_b);
    out[4 * step] = _mm512_fnmadd_ps(all(B), g[1], even_b);
    out[5 * step] = g[2];
}

// Six sums of products -> four results.
static inline __attribute__((always_inline)) void transform_sums(const vec m[SIDE], vec y[4]) {
    const float at_a = factors.result[1], at_b = factors.result[2];
    const vec sum_a = _mm512_add_ps(m[1], m[2]), sum_b = _mm512_add_ps(m[3], m[4]);
    const vec odd_a = _mm512_sub_ps(m[1], m[2]), odd_b = _mm512_sub_ps(m[3], m[4]);
    auto both = [&](vec a, float by_a, vec b, float by_b) {
        return _mm512_fmadd_ps(a, all(by_a * at_a), _mm512_mul_ps(b, all(by_b * at_b)));
    };
    y[0] = _mm512_fmadd_ps(m[0], all(factors.result[0]), both(sum_a, 1, sum_b, 1));
    y[1] = both(odd_a, A, odd_b, B);
    y[2] = both(sum_a, A2, sum_b, B2);
    y[3] = _mm512_fmadd_ps(m[5], all(factors.result[3]), both(odd_a, A2 * A, odd_b, B2 * B));
}

// 32 channels as integers. Their order, that of `packs`, is the same in inputs and kernels.
static inline __m512i fixed_point(vec lower, vec upper, float factor) {
    return _mm512_packs_epi32(_mm512_cvtps_epi32(_mm512_mul_ps(lower, all(factor))),
                              _mm512_cvtps_epi32(_mm512_mul_ps(upper, all(factor))));
}

// The scale of a vector, and what undoes it. squares(c) gives sums of squares of channels c to c + step, in 16 lanes.
struct Scale {
    float factor = 0, inverse = 0;

    template <class F>
    static inline __attribute__((always_inline)) Scale of(long channels, long chunk, long step, float longest,
                                                              F squares) {
        vec largest = all(0), total = all(0);
        float most = 0;
        for (long begin = 0; begin < channels; begin += chunk) {
            vec sum = all(0);
            for (long c = begin; c < begin + chunk && c < channels; c += step) {
                const vec here = squares(c);
                sum = _mm512_add_ps(sum, here);
                largest = _mm512_max_ps(largest, here);
            }
            total = _mm512_add_ps(total, sum);
            const float length = _mm512_reduce_add_ps(sum);
            most = length > most ? length : most;
        }
        if (!(_mm512_reduce_add_ps(total) < INFINITY)) return {0, NAN};  // what is not a number stays none
        if (most == 0) return {};
        const float by_length = longest / std::sqrt(most), by_size = LARGEST / std::sqrt(_mm512_reduce_max_ps(largest));
        const float factor = by_length < by_size ? by_length : by_size;
        return {factor, 1 / factor};
    }
};
