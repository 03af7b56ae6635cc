// What only passes over memory: group norm of channels_last maps, with or without SiLU after it; layer norm; joining maps.

#include "common.h"

// Sums and sums of squares of each channel over some of the positions: x (positions, channels).
template <class X>
static void sums_of(const X* x, long positions, long channels, float* sum, float* squares) {
    for (long c = 0; c < channels; c += 64) {
        vec s[4], q[4];
        __mmask16 mask[4];
        for (int j = 0; j < 4; j++) {
            s[j] = q[j] = _mm512_setzero_ps();
            mask[j] = channels - c - 16 * j > 0 ? first(channels - c - 16 * j) : (__mmask16)0;
        }
        for (long i = 0; i < positions; i++)
            for (int j = 0; j < 4; j++) {
                const vec value = load(x + i * channels + c + 16 * j, mask[j]);
                s[j] = _mm512_add_ps(s[j], value);
                q[j] = _mm512_fmadd_ps(value, value, q[j]);
            }
        for (int j = 0; j < 4; j++) {
            _mm512_mask_storeu_ps(sum + c + 16 * j, mask[j], s[j]);
            _mm512_mask_storeu_ps(squares + c + 16 * j, mask[j], q[j]);
        }
    }
}

template <class X, class Y>
static void scale_and_shift(const X* x, Y* y, long positions, long channels, const float* scale, const float* shift,
                            bool with_silu) {
    for (long i = 0; i < positions; i++)
        for (long c = 0; c < channels; c += 16) {
            const __mmask16 mask = first(channels - c);
            vec value = load(x + i * channels + c, mask);
            value = _mm512_fmadd_ps(value, _mm512_maskz_loadu_ps(mask, scale + c), _mm512_maskz_loadu_ps(mask, shift + c));
            store(y + i * channels + c, with_silu ? silu(value) : value, mask);
        }
}

template <class X, class Y>
static void group_norm(const X* x, const bf16* weight, const bf16* bias, Y* y, long batch, long positions,
                       long channels, long groups, float eps, bool with_silu) {
    const long chunk = 64, chunks = (positions + chunk - 1) / chunk, width = channels / groups;
    static thread_local Scratch scratch;
    float* partial = (float*)scratch.grow((batch * (chunks + 1) * 2 * channels) * sizeof(float));
    float* factors = partial + batch * chunks * 2 * channels;  // of each channel: scale, then shift
    Barrier barrier;
    Queue sums, means, results;
#pragma omp parallel num_threads(team())
    {
        long task;
        auto here = [&](long i) { return positions - i * chunk < chunk ? positions - i * chunk : chunk; };
        while (sums.take(batch * chunks, task)) {
            float* to = partial + task * 2 * channels;
            const long b = task / chunks, i = task % chunks;
            sums_of(x + (b * positions + i * chunk) * channels, here(i), channels, to, to + channels);
        }
        barrier.wait();
        while (means.take(batch * groups, task)) {
            const long b = task / groups, begin = task % groups * width;
            double sum = 0, squares = 0;
            for (long i = 0; i < chunks; i++) {
                const float* from = partial + (b * chunks + i) * 2 * channels;
                for (long c = begin; c < begin + width; c++) {
                    sum += from[c];
                    squares += from[channels + c];
                }
            }
            const double count = (double)positions * width, mean = sum / count;
            const double variance = squares / count - mean * mean;
            const double inverse = 1.0 / __builtin_sqrt((variance > 0 ? variance : 0) + eps);
            for (long c = begin; c < begin + width; c++) {
                const float w = _mm512_cvtss_f32(load(weight + c, 1)), shift = _mm512_cvtss_f32(load(bias + c, 1));
                factors[b * 2 * channels + c] = (float)(w * inverse);
                factors[b * 2 * channels + channels + c] = (float)(shift - mean * inverse * w);
            }
        }
        barrier.wait();
        while (results.take(batch * chunks, task)) {
            const long b = task / chunks, i = task % chunks, at = (b * positions + i * chunk) * channels;
            const float* factor = factors + b * 2 * channels;
            scale_and_shift(x + at, y + at, here(i), channels, factor, factor + channels, with_silu);
        }
    }
}

EXPORTED void diafano_group_norm(const void* x, const bf16* weight, const bf16* bias, void* y, long batch,
                                 long positions, long channels, long groups, float eps, int with_silu, int float_in,
                                 int float_out) {
    auto with = [&](auto* from, auto* to) {
        group_norm(from, weight, bias, to, batch, positions, channels, groups, eps, with_silu);
    };
    if (float_in && float_out)
        with((float*)x, (float*)y);
    else if (float_in)
        with((float*)x, (bf16*)y);
    else if (float_out)
        with((bf16*)x, (float*)y);
    else
        with((bf16*)x, (bf16*)y);
}

EXPORTED void diafano_layer_norm(const bf16* x, const bf16* weight, const bf16* bias, bf16* y, long rows, long width,
                                   float eps) {
#pragma omp parallel for schedule(static) num_threads(team())
    for (long r = 0; r < rows; r++) {
        const bf16* from = x + r * width;
        vec sum = _mm512_setzero_ps(), squares = _mm512_setzero_ps();
        for (long c = 0; c < width; c += 16) sum = _mm512_add_ps(sum, load(from + c, first(width - c)));
        const vec mean = _mm512_set1_ps(_mm512_reduce_add_ps(sum) / width);
        for (long c = 0; c < width; c += 16) {
            const __mmask16 mask = first(width - c);
            const vec centred = _mm512_maskz_sub_ps(mask, load(from + c, mask), mean);
            squares = _mm512_fmadd_ps(centred, centred, squares);
        }
        const vec inverse = _mm512_set1_ps(1.0f / __builtin_sqrtf(_mm512_reduce_add_ps(squares) / width + eps));
        for (long c = 0; c < width; c += 16) {
            const __mmask16 mask = first(width - c);
            const vec value = _mm512_mul_ps(_mm512_sub_ps(load(from + c, mask), mean), inverse);
            store(y + r * width + c, _mm512_fmadd_ps(value, load(weight + c, mask), load(bias + c, mask)), mask);
        }
    }
}

// Two maps' channels one after the other: a (positions, first), b (positions, second) -> y (positions, first + second).
EXPORTED void diafano_join(const bf16* a, const bf16* b, bf16* y, long positions, long first, long second) {
#pragma omp parallel for schedule(static) num_threads(team())
    for (long i = 0; i < positions; i++) {
        memcpy(y + i * (first + second), a + i * first, first * sizeof(bf16));
        memcpy(y + i * (first + second) + first, b + i * second, second * sizeof(bf16));
    }
}
