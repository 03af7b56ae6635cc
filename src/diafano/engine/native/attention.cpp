// softmax(q k^T scale) v without the matrix of scores (Dao et al. 2022, FlashAttention): keys pass by in blocks, and each
// query's running maximum and sum correct what was added up before. Scores, sums and results are float32.

#include "common.h"

static constexpr long ROWS = 8, KEYS = 512, WIDE = 32;  // queries of a tile, keys of a block, keys of a panel
static constexpr long QUERIES = 64;                     // queries of a task

struct Attention {
    const bf16 *q, *k, *v;  // (batch, n, heads * width), (batch, m, heads * width) twice, rows `*_step` values apart
    bf16* y;                // (batch, n, heads * width), dense
    long batch, heads, n, m, width, q_step, kv_step;
    float scale;

    long padded() const { return (m + WIDE - 1) / WIDE * WIDE; }  // keys
    long columns() const { return (width + 7) / 8 * 8; }          // of v
    long head_size() const { return padded() * (width + columns()); }

    // The widths of v's panels, in half vectors: 5 (40 columns), 4 or less.
    static long panel_of(long left) { return left == 5 ? 5 : left >= 4 ? 4 : left; }

    // One head's keys as panels [32 keys] of [width / 2][32][2], then its values as panels of [keys / 2][columns][2].
    void pack(long head, bf16* out) const {
        const long b = head / heads, offset = head % heads * width, keys = padded();
        const bf16 *kk = k + b * m * kv_step + offset, *vv = v + b * m * kv_step + offset;
        for (long key = 0; key < keys; key += 16)
            pack_transposed(kk + (key < m ? key : 0) * kv_step, kv_step, m > key ? m - key : 0, width,
                            out + key / WIDE * width * WIDE + key % WIDE * 2, WIDE);
        bf16* to = out + keys * width;
        for (long c = 0; c < columns();) {
            const long halves = panel_of((columns() - c) / 8);
            for (long key = 0; key < keys; key += 2)
                for (long h = 0; h < halves; h++, to += 16) {
                    const long column = c + h * 8;
                    const __mmask8 mask = (__mmask8)first(width - column);
                    const __m128i even = key < m ? _mm_maskz_loadu_epi16(mask, vv + key * kv_step + column)
                                                 : _mm_setzero_si128();
                    const __m128i odd = key + 1 < m ? _mm_maskz_loadu_epi16(mask, vv + (key + 1) * kv_step + column)
                                                    : _mm_setzero_si128();
                    _mm_storeu_si128((__m128i*)to, _mm_unpacklo_epi16(even, odd));
                    _mm_storeu_si128((__m128i*)(to + 8), _mm_unpackhi_epi16(even, odd));
                }
            c += halves * 8;
        }
    }

    // sums[ROWS][...] = sums * factors + p times a panel of values
    template <int ZMM, bool HALF>
    static inline __attribute__((always_inline)) void add_values(const bf16* p, const bf16* panel, long pairs,
                                                                 const float* factors, float* sums, long step) {
        Tile<ROWS, ZMM, HALF> t;
        for (int r = 0; r < ROWS; r++) {
            for (int z = 0; z < ZMM; z++)
                t.c[r][z] = _mm512_mul_ps(_mm512_loadu_ps(sums + r * step + z * 16), _mm512_set1_ps(factors[r]));
            if (HALF) t.h[r] = _mm256_mul_ps(_mm256_loadu_ps(sums + r * step + ZMM * 16), _mm256_set1_ps(factors[r]));
        }
        t.multiply(p, KEYS, panel, pairs);
        for (int r = 0; r < ROWS; r++) {
            for (int z = 0; z < ZMM; z++) _mm512_storeu_ps(sums + r * step + z * 16, t.c[r][z]);
            if (HALF) _mm256_storeu_ps(sums + r * step + ZMM * 16, t.h[r]);
        }
    }

    // Scores [ROWS][KEYS] -> exponentials in bfloat16; keeps each row's maximum (times log2 e and scale) and sum.
    void softmax(const float* scores, long keys, bf16* p, float* maxima, float* totals, float* factors) const {
        const float to_log2 = scale * LOG2_E;
        const vec c = _mm512_set1_ps(to_log2);
        for (int r = 0; r < ROWS; r++, scores += KEYS, p += KEYS) {
            vec most = _mm512_load_ps(scores);
            for (long i = 16; i < keys; i += 16) most = _mm512_max_ps(most, _mm512_load_ps(scores + i));
            const float reached = _mm512_reduce_max_ps(most) * to_log2;
            const float maximum = reached > maxima[r] ? reached : maxima[r];
            const vec shift = _mm512_set1_ps(maximum);
            vec total = _mm512_setzero_ps();
            for (long i = 0; i < keys; i += 16) {
                const vec e = exp2_of(_mm512_fmsub_ps(_mm512_load_ps(scores + i), c, shift));
                total = _mm512_add_ps(total, e);
                _mm256_store_si256((__m256i*)(p + i), narrow(e));
            }
            factors[r] = _mm512_cvtss_f32(exp2_of(_mm512_set1_ps(maxima[r] - maximum)));
            totals[r] = totals[r] * factors[r] + _mm512_reduce_add_ps(total);
            maxima[r] = maximum;
        }
    }

    // Queries first .. first + QUERIES of one head.
    void attend(long head, long start, const bf16* packed) const {
        alignas(64) float scores[ROWS * KEYS], maxima[QUERIES], totals[QUERIES], factors[ROWS];
        alignas(64) bf16 p[ROWS * KEYS];
        static thread_local Scratch scratch;
        const long b = head / heads, offset = head % heads * width, columns = this->columns(), keys = padded();
        const long rows = n - start < QUERIES ? n - start : QUERIES, step = columns;
        float* sums = (float*)scratch.grow(QUERIES * (step * sizeof(float) + width * sizeof(bf16)));
        bf16* queries = (bf16*)(sums + QUERIES * step);
        memset(sums, 0, QUERIES * step * sizeof(float));
        for (long r = 0; r < QUERIES; r++) {
            maxima[r] = -1e30f;
            totals[r] = 0;
            if (r < rows)
                memcpy(queries + r * width, q + (b * n + start + r) * q_step + offset, width * sizeof(bf16));
            else
                memset(queries + r * width, 0, width * sizeof(bf16));
        }
        const bf16* values = packed + keys * width;
        for (long key = 0; key < keys; key += KEYS) {
            const long here = keys - key < KEYS ? keys - key : KEYS;
            for (long r = 0; r < rows; r += ROWS) {
                for (long panel = 0; panel < here; panel += WIDE) {
                    Tile<ROWS, 2, false> t;
                    t.clear();
                    t.multiply(queries + r * width, width, packed + (key + panel) * width, width / 2);
                    for (int i = 0; i < ROWS; i++)
                        for (int z = 0; z < 2; z++) _mm512_store_ps(scores + i * KEYS + panel + z * 16, t.c[i][z]);
                }
                for (long i = m - key; i < here; i++)  // keys that are only there to fill the last panel
                    for (int j = 0; j < ROWS; j++) scores[j * KEYS + i] = -1e30f;
                softmax(scores, here, p, maxima + r, totals + r, factors);
                const bf16* panel = values;
                for (long c = 0; c < columns;) {
                    const long halves = panel_of((columns - c) / 8);
                    const bf16* from = panel + key * halves * 8;
                    float* to = sums + r * step + c;
                    switch (halves) {
                        case 5: add_values<2, true>(p, from, here / 2, factors, to, step); break;
                        case 4: add_values<2, false>(p, from, here / 2, factors, to, step); break;
                        case 3: add_values<1, true>(p, from, here / 2, factors, to, step); break;
                        case 2: add_values<1, false>(p, from, here / 2, factors, to, step); break;
                        default: add_values<0, true>(p, from, here / 2, factors, to, step);
                    }
                    panel += keys * halves * 8;
                    c += halves * 8;
                }
            }
        }
        for (long r = 0; r < rows; r++) {
            const vec share = _mm512_set1_ps(1.0f / totals[r]);
            bf16* to = y + (b * n + start + r) * heads * width + offset;
            for (long c = 0; c < width; c += 16) {
                const __mmask16 mask = first(width - c);
                store(to + c, _mm512_mul_ps(_mm512_maskz_loadu_ps(mask, sums + r * step + c), share), mask);
            }
        }
    }
};

EXPORTED void diafano_attention(const bf16* q, const bf16* k, const bf16* v, bf16* y, long batch, long heads, long n,
                                  long m, long width, long q_step, long kv_step, float scale) {
    const Attention job{q, k, v, y, batch, heads, n, m, width, q_step, kv_step, scale};
    static thread_local Scratch scratch;
    const long size = job.head_size(), blocks = (n + QUERIES - 1) / QUERIES;
    bf16* packed = (bf16*)scratch.grow(batch * heads * size * sizeof(bf16));
    Barrier barrier;
    Queue packs, tasks;
#pragma omp parallel num_threads(team())
    {
        long task;
        while (packs.take(batch * heads, task)) job.pack(task, packed + task * size);
        barrier.wait();
        while (tasks.take(batch * heads * blocks, task))
            job.attend(task / blocks, task % blocks * QUERIES, packed + task / blocks * size);
    }
}
