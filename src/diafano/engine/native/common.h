// Vectors of 16 floats, bfloat16 in memory, and the one matrix product that everything here is made of.
//
// bfloat16 is the upper half of a float, so widening is a shift. The processor's instruction vdpbf16ps multiplies pairs
// of neighbouring bfloat16 values and adds both products to a float: the inner dimension of a product therefore lies
// in pairs. The right factor is packed into panels [k / 2][columns][2], the left one is read as it lies.

#pragma once

#include <immintrin.h>
#include <omp.h>
#include <sys/mman.h>

#include <sched.h>

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <cstring>

using bf16 = uint16_t;
using vec = __m512;

#define EXPORTED extern "C" __attribute__((visibility("default")))

static inline vec widen(__m256i x) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16)); }
static inline vec load(const bf16* p) { return widen(_mm256_loadu_si256((const __m256i*)p)); }
static inline vec load(const bf16* p, __mmask16 mask) { return widen(_mm256_maskz_loadu_epi16(mask, p)); }
static inline __m256i narrow(vec x) { return (__m256i)_mm512_cvtneps_pbh(x); }
static inline void store(bf16* p, vec x) { _mm256_storeu_si256((__m256i*)p, narrow(x)); }
static inline void store(bf16* p, vec x, __mmask16 mask) { _mm256_mask_storeu_epi16(p, mask, narrow(x)); }
static inline vec load(const float* p, __mmask16 mask) { return _mm512_maskz_loadu_ps(mask, p); }
static inline void store(float* p, vec x, __mmask16 mask) { _mm512_mask_storeu_ps(p, mask, x); }
static inline __mmask16 first(long count) { return count >= 16 ? 0xffff : (__mmask16)((1u << count) - 1); }

// 2^x; its relative error of up to 8e-5 is little beside that of rounding to bfloat16 (4e-3).
static inline vec exp2_of(vec x) {
    const vec f = _mm512_reduce_ps(x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);  // in [0, 1)
    vec p = _mm512_set1_ps(0.07802451f);  // the polynomial of smallest relative error there
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.22606718f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.69583353f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.99992522f));
    return _mm512_scalef_ps(p, x);  // times 2 to the power of x rounded down
}

static constexpr float LOG2_E = 1.4426950408889634f;

// x / (1 + e^-x)
static inline vec silu(vec x) {
    const vec e = exp2_of(_mm512_mul_ps(x, _mm512_set1_ps(-LOG2_E)));
    return _mm512_div_ps(x, _mm512_add_ps(e, _mm512_set1_ps(1.0f)));
}

// x * (1 + erf(x / sqrt 2)) / 2. The second factor is 1/2 + x P(x^2) up to 4.2, where it has reached 1, or 0, and stays. The
// result's largest error is 7e-5: little beside that of rounding values near one to bfloat16.
static inline vec gelu(vec x) {
    static constexpr float P[] = {0.398831964f,     -0.066221334f,   0.00974267535f,   -0.00108760607f, 9.01286403e-05f,
                                  -5.32776494e-06f, 2.09950258e-07f, -4.89427743e-09f, 5.06929047e-11f};
    const vec end = _mm512_set1_ps(4.2f);
    const vec inside = _mm512_max_ps(_mm512_min_ps(end, x), _mm512_sub_ps(_mm512_setzero_ps(), end));
    const vec square = _mm512_mul_ps(inside, inside);
    vec p = _mm512_set1_ps(P[8]);
#pragma GCC unroll 8
    for (int i = 7; i >= 0; i--) p = _mm512_fmadd_ps(p, square, _mm512_set1_ps(P[i]));
    return _mm512_mul_ps(x, _mm512_fmadd_ps(p, inside, _mm512_set1_ps(0.5f)));
}

// 16 rows of 16 pairs -> 16 columns: rows[i] lane j becomes rows[j] lane i.
static inline void transpose(__m512i r[16]) {
    __m512i t[16];
    for (int i = 0; i < 8; i++) {
        t[2 * i] = _mm512_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
        t[2 * i + 1] = _mm512_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
    }
    for (int i = 0; i < 4; i++) {
        r[4 * i] = _mm512_unpacklo_epi64(t[4 * i], t[4 * i + 2]);
        r[4 * i + 1] = _mm512_unpackhi_epi64(t[4 * i], t[4 * i + 2]);
        r[4 * i + 2] = _mm512_unpacklo_epi64(t[4 * i + 1], t[4 * i + 3]);
        r[4 * i + 3] = _mm512_unpackhi_epi64(t[4 * i + 1], t[4 * i + 3]);
    }
    for (int i = 0; i < 4; i++) {
        t[i] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0x88);
        t[i + 4] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0xdd);
        t[i + 8] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0x88);
        t[i + 12] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0xdd);
    }
    for (int i = 0; i < 8; i++) {
        r[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
        r[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd);
    }
}

// Panel of 16 columns (`rows` of them there, the rest zero) from rows of the transposed factor, which lie `stride`
// apart and have `k` values (even): out[k / 2][step][2], of which 16 columns are written.
static inline void pack_transposed(const bf16* in, long stride, long rows, long k, bf16* out, long step) {
    for (long kk = 0; kk < k; kk += 32) {
        __m512i r[16];
        const long left = k - kk;
        const __mmask32 mask = left >= 32 ? 0xffffffffu : (1u << left) - 1;
        for (long i = 0; i < 16; i++)
            r[i] = i < rows ? _mm512_maskz_loadu_epi16(mask, in + i * stride + kk) : _mm512_setzero_si512();
        transpose(r);
        for (long j = 0; j < 16 && kk + 2 * j < k; j++) _mm512_storeu_si512(out + (kk / 2 + j) * step * 2, r[j]);
    }
}

// c[ROWS][ZMM * 16 (+ 8)] = a[ROWS][2 * pairs] times one panel, started from what is in `c`. With HALF the panel has
// eight columns more, for which the processor needs half the time.
template <int ROWS, int ZMM, bool HALF>
struct Tile {
    vec c[ROWS][ZMM ? ZMM : 1];
    __m256 h[ROWS];

    static constexpr int COLUMNS = ZMM * 16 + (HALF ? 8 : 0);

    inline __attribute__((always_inline)) void clear() {
        for (int r = 0; r < ROWS; r++) {
            for (int z = 0; z < ZMM; z++) c[r][z] = _mm512_setzero_ps();
            if (HALF) h[r] = _mm256_setzero_ps();
        }
    }

    inline __attribute__((always_inline)) void multiply(const bf16* a, long lda, const bf16* panel, long pairs) {
#pragma GCC unroll 4
        for (long k = 0; k < pairs; k++) {
            __m512bh b[ZMM ? ZMM : 1];
            __m256bh bh;
#pragma GCC unroll 4
            for (int z = 0; z < ZMM; z++) b[z] = (__m512bh)_mm512_loadu_si512(panel + z * 32);
            if (HALF) bh = (__m256bh)_mm256_loadu_si256((const __m256i*)(panel + ZMM * 32));
            panel += COLUMNS * 2;
#pragma GCC unroll 16
            for (int r = 0; r < ROWS; r++) {
                int pair;
                memcpy(&pair, a + r * lda + 2 * k, 4);
                const __m512i both = _mm512_set1_epi32(pair);
#pragma GCC unroll 4
                for (int z = 0; z < ZMM; z++) c[r][z] = _mm512_dpbf16_ps(c[r][z], (__m512bh)both, b[z]);
                if (HALF) h[r] = _mm256_dpbf16_ps(h[r], (__m256bh)_mm512_castsi512_si256(both), bh);
            }
        }
    }
};

// Threads that share a call's work.
int team();

// Memory of one call, 64-byte aligned; `grow` keeps the largest of a thread, so that nothing is faulted in twice.
struct Scratch {
    void* memory = nullptr;
    size_t size = 0;
    static constexpr size_t HUGE_PAGE = 2 << 20;
    void* grow(size_t bytes) {
        if (bytes > size) {
            free(memory);
            size = (bytes + HUGE_PAGE - 1) & ~(HUGE_PAGE - 1);
            memory = aligned_alloc(HUGE_PAGE, size);
            if (!memory) abort();
            madvise(memory, size, MADV_HUGEPAGE);
        }
        return memory;
    }
    ~Scratch() { free(memory); }
};

// Where a team's threads meet. OpenMP's own barrier may put a thread to sleep, and waking it can take longer than the
// work between two barriers; this one turns for a while before it lets others run.
struct Barrier {
    std::atomic<int> arrived{0}, round{0};
    void wait() {
        const int now = round.load();
        if (arrived.fetch_add(1) + 1 == omp_get_num_threads()) {
            arrived.store(0);
            round.fetch_add(1);
            return;
        }
        for (long turns = 0; round.load(std::memory_order_acquire) == now; turns++)
            turns < 10000 ? _mm_pause() : (void)sched_yield();
    }
};

// Hands out 0 .. count - 1 to whichever thread asks next.
struct Queue {
    std::atomic<long> next{0};
    bool take(long count, long& task) { return (task = next.fetch_add(1)) < count; }
};
