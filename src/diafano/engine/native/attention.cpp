// softmax(q k^T scale) v without the matrix of scores (Dao et al. 2022, FlashAttention): keys pass by in blocks, and what
// was added up before is corrected when a maximum rises. Sums and results are float32.
//
// Exponentials are taken of scores that are still in registers, before it is known whether they are the largest: each
// query's are shifted by the maximum of its first keys. Only when a later block exceeds that by far is the shift
// changed and the block done again, so the maximum costs next to nothing and no factor passes over the sums.

#include <cmath>
#include <utility>

#include "tiles.h"

static constexpr long WIDE = 32;     // keys of a panel
static constexpr long QUERIES = 64;  // of a task
#ifdef DIAFANO_TILES
static constexpr long ROWS = BLOCK_ROWS, KEYS = 256;   // queries that are computed together, keys of a block
static constexpr long PAIRS = TILE_PAIRS, COLUMNS = 16;  // of which the widths of q and k, and of v, are made multiples
#else
static constexpr long ROWS = 8, KEYS = 512;
static constexpr long PAIRS = 1, COLUMNS = 8;
#endif

// 2^x as bfloat16: with x in steps of 1/128, x * 128 + ZERO is its bit pattern, but for the mantissa, which a table of
// the 128 there are puts right. In the root mean square this errs by 0.0022, rounding alone to bfloat16 by 0.0017; the
// sums are of the same values, so the shares still add up to one.
static constexpr float STEPS = 128, ZERO = 127 * STEPS;
// Added to a number of less than 2^22 it leaves the number, rounded to a whole one, in the low bits of the float.
static constexpr float WHOLE = 12582912.0f;  // 1.5 * 2^23
// How far above its shift an exponential may be, in powers of two: far from where bfloat16, or a sum, ends.
static constexpr float HEADROOM = 60;
static constexpr float LOWEST = -1e30f;  // the shift of a query of which no score is known

static const struct Tables {
    alignas(64) uint8_t mantissas[128];
    alignas(64) uint16_t lower[32];  // the lower halves' places in two vectors of 32 bits each
    Tables() {
        for (int i = 0; i < 128; i++) mantissas[i] = (uint8_t)std::lround(128 * (std::exp2(i / 128.0) - 1));
        for (int i = 0; i < 32; i++) lower[i] = (uint16_t)(2 * i);
    }
} tables;

struct Attention {
    const bf16 *q, *k, *v;  // (batch, n, heads * width), (batch, m, heads * width) twice, rows `*_step` values apart
    bf16* y;                // (batch, n, heads * width), dense
    long batch, heads, n, m, width, q_step, kv_step;
    float scale;

    long padded() const { return (m + WIDE - 1) / WIDE * WIDE; }  // keys
    long depth() const { return (width + 2 * PAIRS - 1) / (2 * PAIRS) * 2 * PAIRS; }  // of q and k
    long columns() const { return (width + COLUMNS - 1) / COLUMNS * COLUMNS; }        // of v
    long head_size() const { return padded() * (depth() + columns()); }

#ifdef DIAFANO_TILES
    static long panel_of(long left) { return left; }  // one panel, whose columns the products take as they like
#else
    // The widths of v's panels, in half vectors: 5 (40 columns), 4 or less.
    static long panel_of(long left) { return left == 5 ? 5 : left >= 4 ? 4 : left; }
#endif

    // One head's keys as panels [32 keys] of [depth / 2][32][2], then its values as panels of [keys / 2][columns][2].
    void pack(long head, bf16* out) const {
        const long b = head / heads, offset = head % heads * width, keys = padded(), depth = this->depth();
        const bf16 *kk = k + b * m * kv_step + offset, *vv = v + b * m * kv_step + offset;
        for (long key = 0; key < keys; key += 16) {
            bf16* panel = out + key / WIDE * depth * WIDE;
            pack_transposed(kk + (key < m ? key : 0) * kv_step, kv_step, m > key ? m - key : 0, width,
                            panel + key % WIDE * 2, WIDE);
            memset(panel + width * WIDE, 0, (depth - width) * WIDE * sizeof(bf16));
        }
        bf16* to = out + keys * depth;
        for (long c = 0; c < columns();) {
            const long halves = panel_of((columns() - c) / 8);
            for (long key = 0; key < keys; key += 2)
                for (long h = 0; h < halves; h++, to += 16) {
                    const long column = c + h * 8;
                    const __mmask8 mask = width > column ? (__mmask8)first(width - column) : (__mmask8)0;
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

#ifdef DIAFANO_TILES
    // sums[ROWS][columns] += p times the values of a block of keys
    static void add_values(const bf16* p, const bf16* values, long key, long here, long columns, long, float* sums) {
        for (long c = 0, left = columns / 16; left;) {
            const long now = left == 4 ? 2 : left > 3 ? 3 : left;
            const auto add = now == 3 ? add_columns<3> : now == 2 ? add_columns<2> : add_columns<1>;
            add(p, KEYS, values + key * columns + c * 2, columns, here / 2, sums + c, columns);
            c += now * 16;
            left -= now;
        }
    }
#else
    // sums[ROWS][...] += p times a panel of values
    template <int ZMM, bool HALF>
    static inline __attribute__((always_inline)) void add_panel(const bf16* p, const bf16* panel, long pairs,
                                                                float* sums, long step) {
        Tile<ROWS, ZMM, HALF> t;
        for (int r = 0; r < ROWS; r++) {
            for (int z = 0; z < ZMM; z++) t.c[r][z] = _mm512_loadu_ps(sums + r * step + z * 16);
            if (HALF) t.h[r] = _mm256_loadu_ps(sums + r * step + ZMM * 16);
        }
        t.multiply(p, KEYS, panel, pairs);
        for (int r = 0; r < ROWS; r++) {
            for (int z = 0; z < ZMM; z++) _mm512_storeu_ps(sums + r * step + z * 16, t.c[r][z]);
            if (HALF) _mm256_storeu_ps(sums + r * step + ZMM * 16, t.h[r]);
        }
    }

    // sums[ROWS][columns] += p times the values of `here` keys from `key` on; a panel has all `keys` there are.
    static inline __attribute__((always_inline)) void add_values(const bf16* p, const bf16* values, long key, long here,
                                                                 long columns, long keys, float* sums) {
        for (long c = 0; c < columns;) {
            const long halves = panel_of((columns - c) / 8);
            const bf16* panel = values + c * keys + key * halves * 8;
            float* to = sums + c;
            switch (halves) {
                case 5: add_panel<2, true>(p, panel, here / 2, to, columns); break;
                case 4: add_panel<2, false>(p, panel, here / 2, to, columns); break;
                case 3: add_panel<1, true>(p, panel, here / 2, to, columns); break;
                case 2: add_panel<1, false>(p, panel, here / 2, to, columns); break;
                default: add_panel<0, true>(p, panel, here / 2, to, columns);
            }
            c += halves * 8;
        }
    }
#endif

    using Block = float[ROWS][WIDE];

    // Scores of the queries with two panels of keys: while those with one are computed, those with the last are read.
    struct Scores {
        inline __attribute__((always_inline)) void multiply(const bf16* queries, const bf16* panel, long depth);
        template <class Beside>
        inline __attribute__((always_inline)) void multiply(const bf16* queries, const bf16* panel, long depth,
                                                            const Beside& beside);
        inline __attribute__((always_inline)) void settle();  // what was computed last can be read from now on
        inline __attribute__((always_inline)) void copy(Block& to) const;  // of what was computed last
        const float* row(long r) const { return last[r]; }

#ifdef DIAFANO_TILES
        alignas(64) Block blocks[2];
        float (*next)[WIDE] = blocks[0], (*last)[WIDE] = blocks[1];
#else
        Tile<ROWS, 2, false> next;
        alignas(64) Block last;
#endif
    };

    // What is known of the queries of a tile; `step` values of `sums` belong to each.
    struct Running {
        float *shifts, *totals, *sums;  // shifts are in powers of two
        long step;
    };

    // Shifts rise to the maxima of these scores where they are below, and what was added up falls.
    void raise(const Block& scores, __mmask32 there, Running& of) const {
        const vec lowest = _mm512_set1_ps(LOWEST);
        for (int r = 0; r < ROWS; r++) {
            const vec most = _mm512_max_ps(_mm512_mask_load_ps(lowest, (__mmask16)there, scores[r]),
                                           _mm512_mask_load_ps(lowest, (__mmask16)(there >> 16), scores[r] + 16));
            const float reached = std::nearbyint(_mm512_reduce_max_ps(most) * scale * LOG2_E * STEPS) / STEPS;
            if (!(reached > of.shifts[r])) continue;
            const float before = of.shifts[r];
            of.shifts[r] = reached;
            if (before == LOWEST) continue;  // nothing was added up yet
            const float factor = std::exp2(before - reached);
            of.totals[r] *= factor;
            for (long i = 0; i < of.step; i++) of.sums[r * of.step + i] *= factor;
        }
    }

    // Exponentials of one query's scores with 32 keys -> p, added to `total`; `most` keeps the largest, not yet taken.
    inline __attribute__((always_inline)) void exponentials(const float* scores, __mmask32 there, float start, bf16* p,
                                                            vec& total, vec& most) const {
        const vec factor = _mm512_set1_ps(scale * LOG2_E * STEPS), least = _mm512_set1_ps(WHOLE);
        vec x[2];
        for (int z = 0; z < 2; z++) {
            x[z] = _mm512_fmadd_ps(_mm512_load_ps(scores + z * 16), factor, _mm512_set1_ps(start));
            x[z] = _mm512_max_ps(x[z], least);  // 2^-127 is as good as zero
            most = _mm512_max_ps(most, x[z]);
        }
        const __m512i lower = _mm512_load_si512(tables.lower), mantissa = _mm512_set1_epi16(127);
        const __m512i linear = _mm512_permutex2var_epi16((__m512i)x[0], lower, (__m512i)x[1]);
        __m512i e = _mm512_permutex2var_epi8(_mm512_load_si512(tables.mantissas), linear,
                                             _mm512_load_si512(tables.mantissas + 64));
        e = _mm512_ternarylogic_epi32(mantissa, e, linear, 0xca);  // a ? b : c, bit by bit
        if (there != 0xffffffffu) e = _mm512_maskz_mov_epi16(there, e);
        total = _mm512_dpbf16_ps(total, (__m512bh)e, (__m512bh)_mm512_set1_epi16(0x3f80));  // times one
        _mm512_store_si512(p, e);
    }

    static __mmask32 there(long keys) { return keys >= WIDE ? 0xffffffffu : (1u << keys) - 1; }

    // Exponentials of the queries' scores with a block of keys; false if some exceed the headroom. They are taken while
    // the next panel's products are made, for the processor computes both side by side. DEPTH is that of a head, where
    // the compiler is to know it.
    template <long DEPTH>
    bool weigh(const bf16* queries, const bf16* keys, long here, long real, bf16* p, Running& of, bool begun) const {
        alignas(64) vec totals[ROWS];
        alignas(64) float starts[ROWS];
        Scores scores;
        vec most = _mm512_setzero_ps();
        const long depth = DEPTH ? DEPTH : this->depth();
        scores.multiply(queries, keys, depth);
        if (!begun) {
            alignas(64) Block first;
            scores.copy(first);
            raise(first, there(real), of);
        }
        for (int r = 0; r < ROWS; r++) {
            totals[r] = _mm512_setzero_ps();
            starts[r] = WHOLE + (ZERO - of.shifts[r] * STEPS);
        }
        for (long panel = WIDE;; panel += WIDE) {
            scores.settle();
            if (panel >= here) break;
            scores.multiply(queries, keys + panel * depth, depth, [&](long r) __attribute__((always_inline)) {
                exponentials(scores.row(r), 0xffffffffu, starts[r], p + r * KEYS + panel - WIDE, totals[r], most);
            });
        }
        for (int r = 0; r < ROWS; r++)
            exponentials(scores.row(r), there(real - here + WIDE), starts[r], p + r * KEYS + here - WIDE, totals[r], most);
        const float reached = _mm512_reduce_max_ps(most);
        if (reached > WHOLE + ZERO + HEADROOM * STEPS && reached < INFINITY) return false;
        for (int r = 0; r < ROWS; r++) of.totals[r] += _mm512_reduce_add_ps(totals[r]);
        return true;
    }

    // Queries start .. start + QUERIES of one head.
    void attend(long head, long start, const bf16* packed) const {
        alignas(64) float shifts[QUERIES], totals[QUERIES];
        alignas(64) bf16 p[ROWS * KEYS];
        static thread_local Scratch scratch;
        const long b = head / heads, offset = head % heads * width, columns = this->columns(), keys = padded();
        const long rows = n - start < QUERIES ? n - start : QUERIES, step = columns, depth = this->depth();
        float* sums = (float*)scratch.grow(QUERIES * (step * sizeof(float) + depth * sizeof(bf16)));
        bf16* queries = (bf16*)(sums + QUERIES * step);
        memset(sums, 0, QUERIES * step * sizeof(float));
        for (long r = 0; r < QUERIES; r++) {
            shifts[r] = LOWEST;
            totals[r] = 0;
            const long there = r < rows ? width : 0;
            memcpy(queries + r * depth, q + (b * n + start + r) * q_step + offset, there * sizeof(bf16));
            memset(queries + r * depth + there, 0, (depth - there) * sizeof(bf16));
        }
        const bf16* values = packed + keys * depth;
        for (long key = 0; key < keys; key += KEYS) {
            const long here = keys - key < KEYS ? keys - key : KEYS;
            for (long r = 0; r < rows; r += ROWS) {
                Running of{shifts + r, totals + r, sums + r * step, step};
                const bf16 *own = queries + r * depth, *block = packed + key * depth;
                const auto weigh = depth == 40   ? &Attention::weigh<40>
                                   : depth == 80 ? &Attention::weigh<80>
                                                 : &Attention::weigh<0>;
                if (!(this->*weigh)(own, block, here, m - key, p, of, key > 0)) {
                    for (long panel = 0; panel < here; panel += WIDE) {
                        Scores scores;
                        alignas(64) Block these;
                        scores.multiply(own, block + panel * depth, depth);
                        scores.copy(these);
                        raise(these, there(m - key - panel), of);
                    }
                    (this->*weigh)(own, block, here, m - key, p, of, true);
                }
                add_values(p, values, key, here, columns, keys, sums + r * step);
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

void Attention::Scores::multiply(const bf16* queries, const bf16* panel, long depth) {
#ifdef DIAFANO_TILES
    multiply_block(queries, depth, panel, depth / 2, next[0], WIDE, false);
#else
    next.clear();
    next.multiply(queries, depth, panel, depth / 2);
#endif
}

// beside(r) is called for all rows; what it does and the products take place side by side.
template <class Beside>
void Attention::Scores::multiply(const bf16* queries, const bf16* panel, long depth, const Beside& beside) {
    const long pairs = depth / 2;
#ifdef DIAFANO_TILES
    const long each = rows_beside(pairs);
    multiply_block(queries, depth, panel, pairs, next[0], WIDE, false, [&](long portion) __attribute__((always_inline)) {
        for (long r = portion * each; r < (portion + 1) * each && r < ROWS; r++) beside(r);
    });
#else
    next.clear();
#pragma GCC unroll 8
    for (long r = 0; r < ROWS; r++) {
        const long from = pairs * r / ROWS, to = pairs * (r + 1) / ROWS;
        beside(r);
        next.multiply(queries + 2 * from, depth, panel + from * WIDE * 2, to - from);
    }
#endif
}

void Attention::Scores::settle() {
#ifdef DIAFANO_TILES
    std::swap(next, last);
#else
    copy(last);
#endif
}

void Attention::Scores::copy(Block& to) const {
#ifdef DIAFANO_TILES
    memcpy(to, next, sizeof(Block));
#else
    for (int r = 0; r < ROWS; r++)
        for (int z = 0; z < 2; z++) _mm512_store_ps(to[r] + z * 16, next.c[r][z]);
#endif
}

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
        const TileRegisters registers;
        long task;
        while (packs.take(batch * heads, task)) job.pack(task, packed + task * size);
        barrier.wait();
        while (tasks.take(batch * heads * blocks, task))
            job.attend(task / blocks, task % blocks * QUERIES, packed + task / blocks * size);
    }
}
