// Convolutions with many tiles: the kernels' transforms are shared, each task has tiles of its own, which are the rows
// of its products.

#include <type_traits>

#include "winograd.h"

static constexpr int ROWS = 8, WIDE = 32;
static constexpr long BLOCK = 256;  // channels of kernels that are transformed together

template <class X, class Y>
struct ByTiles : Convolution<X, Y> {
    using Base = Convolution<X, Y>;
    using typename Base::Place;

    long panel_size() const { return POSITIONS * this->pairs() * WIDE * 2; }

    // Kernels of 32 results -> their 16 transforms, as panels [position][in / 2][32][2].
    void transform_kernels(long panel, bf16* packed) const {
        alignas(64) Spread spread[BLOCK / 32];
        const long in = this->in, out = this->out, pairs = this->pairs();  // no store below can change these
        const bf16* w = this->w;
        for (int half = 0; half < 2; half++)
            for (long c = 0; c < in; c += BLOCK) {
                const long end = in - c < BLOCK ? in - c : BLOCK, vectors = (end + 31) / 32;
                for (int i = 0; i < 16; i++) {
                    const long o = panel * WIDE + half * 16 + i;
                    for (long j = 0; j < vectors; j++) {
                        __m512i u[POSITIONS];
                        if (o < out) {
                            const bf16* from = w + o * 9 * in + c + j * 32;
                            for (int k = 9; k < 18; k++)  // the next kernel's rows are too short to be seen coming
                                _mm_prefetch((const char*)(from + k * in), _MM_HINT_T0);
                            Base::transform_kernel(from, in, end - j * 32, u);
                        } else {
                            for (int p = 0; p < POSITIONS; p++) u[p] = _mm512_setzero_si512();
                        }
                        for (int p = 0; p < POSITIONS; p++) spread[j][p][i] = u[p];
                    }
                }
                for (int p = 0; p < POSITIONS; p++) {
                    if (this->vanishes(p)) continue;
                    for (long j = 0; j < vectors; j++) {
                        transpose(spread[j][p]);
                        const long pair = c / 2 + j * 16, count = pairs - pair < 16 ? pairs - pair : 16;
                        bf16* to = packed + (p * pairs + pair) * WIDE * 2 + half * 32;
                        for (long k = 0; k < count; k++) _mm512_storeu_si512(to + k * WIDE * 2, spread[j][p][k]);
                    }
                }
            }
    }

    // Tiles start .. start + count of 4x4 inputs -> their 16 transforms [position][count][2 * pairs].
    void transform_inputs(long start, long count, bf16* v) const {
        const long in = this->in, pairs = this->pairs(), step = count * pairs * 2;
        for (long i = 0; i < count; i++) {
            const X* at[POSITIONS];
            this->inputs(start + i, at);
            for (long c = 0; c < in; c += 16) {
                const __mmask16 mask = first(in - c);
                vec d[POSITIONS];
                Base::transform_input(at, c, mask, d);
                for (int p = 0; p < POSITIONS; p++) store(v + p * step + i * pairs * 2 + c, d[p], mask);
            }
            if (in % 2)
                for (int p = 0; p < POSITIONS; p++) v[p * step + i * pairs * 2 + in] = 0;
        }
    }

    template <int R>
    inline __attribute__((always_inline)) void product(const bf16* v, const bf16* packed, float* m) const {
        Tile<R, 2, false> t;
        t.clear();
        t.multiply(v, this->pairs() * 2, packed, this->pairs());
        for (int r = 0; r < R; r++)
            for (int z = 0; z < 2; z++) _mm512_store_ps(m + r * WIDE + z * 16, t.c[r][z]);
    }

    // The results of one panel at tiles start .. start + count, from their transforms; m [position][count][32].
    void results(long start, long count, long panel, const bf16* v, const bf16* kernels, float* m) const {
        const long pairs = this->pairs();
        for (int position = 0; position < POSITIONS; position++, kernels += pairs * WIDE * 2) {
            if (this->vanishes(position)) continue;
            const bf16* from = v + position * count * pairs * 2;
            float* to = m + position * count * WIDE;
            long i = 0;
#ifdef DIAFANO_TILES
            if (pairs % TILE_PAIRS == 0)
                for (; i + BLOCK_ROWS <= count; i += BLOCK_ROWS)
                    multiply_block(from + i * pairs * 2, pairs * 2, kernels, pairs, to + i * WIDE, WIDE, false);
#endif
            for (; i + ROWS <= count; i += ROWS) product<ROWS>(from + i * pairs * 2, kernels, to + i * WIDE);
            for (; i < count; i++) product<1>(from + i * pairs * 2, kernels, to + i * WIDE);
        }
        for (long i = 0; i < count; i++) {
            const Place at = this->place(start + i);
            for (long o = 0; o < WIDE && panel * WIDE + o < this->out; o += 16) {
                vec sums[2][2];
                this->transform_results(m + i * WIDE + o, count * WIDE, sums);
                for (int r = 0; r < 2; r++)
                    for (int c = 0; c < 2; c++) this->put(at, r, c, panel * WIDE + o, sums[r][c]);
            }
        }
    }
};

template <class X, class Y>
void by_tiles(const Convolution<X, Y>& given) {
    const ByTiles<X, Y> job{given};
    static thread_local Scratch scratch;
    const long threads = team(), panels = (job.out + WIDE - 1) / WIDE, size = job.panel_size(), tiles = job.tiles();
    // The transforms of one task's tiles stay in the second-level cache.
    long count = (768 * 1024) / (POSITIONS * (job.pairs() * 4 + WIDE * 4)) / ROWS_TOGETHER * ROWS_TOGETHER;
    count = count < 64 ? 64 : count > 256 ? 256 : count;
    if (count * threads > tiles) count = (tiles / threads + ROWS_TOGETHER - 1) / ROWS_TOGETHER * ROWS_TOGETHER;
    if (count < 16) count = 16;
    long at_once = (16 << 20) / (size * (long)sizeof(bf16));  // as many panels as stay in the third-level cache
    at_once = at_once < 1 ? 1 : at_once > panels ? panels : at_once;
    bf16* packed = (bf16*)scratch.grow(at_once * size * sizeof(bf16));
    const long blocks = (tiles + count - 1) / count;
    Barrier barrier;
    Queue kernels, tasks;
#pragma omp parallel num_threads(team())
    {
        const TileRegisters registers;
        static thread_local Scratch own;
        bf16* v = (bf16*)own.grow(POSITIONS * count * (job.pairs() * 2 * sizeof(bf16) + WIDE * sizeof(float)));
        float* m = (float*)(v + POSITIONS * count * job.pairs() * 2);
        for (long begin = 0, task; begin < panels; begin += at_once) {
            const long there = panels - begin < at_once ? panels - begin : at_once;
            while (kernels.take(there, task)) job.transform_kernels(begin + task, packed + task * size);
            barrier.wait();
            long parts = (omp_get_num_threads() + blocks - 1) / blocks;
            if (parts > there) parts = there;
            while (tasks.take(blocks * parts, task)) {
                const long start = task / parts * count, part = task % parts;
                const long here = start + count < tiles ? count : tiles - start;
                job.transform_inputs(start, here, v);
                for (long p = there * part / parts; p < there * (part + 1) / parts; p++)
                    job.results(start, here, begin + p, v, packed + p * size, m);
            }
            barrier.wait();
            kernels.next = tasks.next = 0;  // by all threads, before the next barrier that any of them passes
            barrier.wait();
        }
    }
}

// Whether larger tiles take fewer products, the empty ones that fill up their panels included. AMX makes several times
// as many of bfloat16, and has none of 16-bit integers.
template <class X, class Y>
bool large_tiles_pay(const Convolution<X, Y>& job) {
#ifdef DIAFANO_TILES
    return false;
#else
    const long large = (job.tiles(4) + 31) / 32 * 32 * ((job.in + 31) / 32 * 32), small = job.tiles() * job.in;
    return !job.up && 36 * large <= 16 * small;
#endif
}

EXPORTED void diafano_convolution(const void* x, const bf16* w, const float* bias, long bias_step, const bf16* residual,
                                  void* y, long batch, long height, long width, long in, long out, int up,
                                  int float_in, int float_out) {
    auto with = [&](auto* from, auto* to) {
        using X = std::remove_pointer_t<decltype(from)>;
        const Convolution<X, std::remove_pointer_t<decltype(to)>> job{
            from, w, bias, bias_step, residual, to, batch, height, width, in, out, up};
        if constexpr (std::is_same_v<X, float>)
            if (large_tiles_pay(job)) return by_large_tiles(job);
        if (job.tiles() <= FEW_TILES)
            by_results(job);
        else
            by_tiles(job);
    };
    // Each pair of formats takes its time to compile: only those that blocks ask for are here.
    if (!float_in)
        with((bf16*)x, (bf16*)y);  // maps that are repeated
    else if (float_out)
        with((float*)x, (float*)y);
    else
        with((float*)x, (bf16*)y);
}
