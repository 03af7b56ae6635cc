// 3x3 convolution of stride 1 with one row of zeros around, by Winograd's F(2x2, 3x3) (Lavin and Gray 2016): a tile of
// 2x2 results takes 16 products for each pair of channels instead of 36. Everything but the products is done in
// float32; both factors are rounded to bfloat16 once more than in the plain convolution.

#include <type_traits>

#include "common.h"

static constexpr int ROWS = 8, WIDE = 32, POSITIONS = 16;
static constexpr long BLOCK = 256;  // channels of kernels that are transformed together

// Pairs of channels of 16 kernels at each position; the 17th column keeps the positions in different cache sets.
using Spread = __m512i[POSITIONS][17];

// X and Y: what is read and written is bfloat16 or float.
template <class X, class Y>
struct Convolution {
    const X* x;         // (batch, h >> up, w >> up, in)
    const bf16* w;      // (out, 3, 3, in)
    const float* bias;  // (batch, out), or (out,) when bias_step is 0
    long bias_step;
    const bf16* residual;  // (batch, h, w, out) or null
    Y* y;                  // (batch, h, w, out)
    long batch, height, width, in, out;
    int up;  // 1: x is repeated to twice its height and width

    long tiles_y() const { return (height + 1) / 2; }
    long tiles_x() const { return (width + 1) / 2; }
    long tiles() const { return batch * tiles_y() * tiles_x(); }
    long pairs() const { return (in + 1) / 2; }
    long panel_size() const { return POSITIONS * pairs() * WIDE * 2; }

    // Kernels of 32 results -> their 16 transforms, as panels [position][in / 2][32][2].
    void transform_kernels(long panel, bf16* packed) const {
        alignas(64) Spread spread[BLOCK / 32];
        const long in = this->in, out = this->out, pairs = this->pairs();  // no store below can change these
        for (int half = 0; half < 2; half++)
            for (long c = 0; c < in; c += BLOCK) {
                const long end = in - c < BLOCK ? in - c : BLOCK, vectors = (end + 31) / 32;
                for (int i = 0; i < 16; i++) {
                    const long o = panel * WIDE + half * 16 + i;
                    if (o + 1 < out)  // the next kernel's rows are too short for the processor to see them coming
                        for (int k = 0; k < 9; k++)
                            for (long j = 0; j < end; j += 32)
                                _mm_prefetch((const char*)(w + ((o + 1) * 9 + k) * in + c + j), _MM_HINT_T0);
                    for (long j = 0; j < vectors; j++) {
                        if (o < out) {
                            transform_kernel(w + o * 9 * in + c + j * 32, in, end - j * 32, spread[j], i);
                        } else {
                            for (int p = 0; p < POSITIONS; p++) spread[j][p][i] = _mm512_setzero_si512();
                        }
                    }
                }
                for (int p = 0; p < POSITIONS; p++)
                    for (long j = 0; j < vectors && !vanishes(p); j++) {
                        transpose(spread[j][p]);
                        const long pair = c / 2 + j * 16, count = pairs - pair < 16 ? pairs - pair : 16;
                        bf16* to = packed + (p * pairs + pair) * WIDE * 2 + half * 32;
                        for (long k = 0; k < count; k++) _mm512_storeu_si512(to + k * WIDE * 2, spread[j][p][k]);
                    }
            }
    }

    // 32 channels of one kernel [3][3][in] -> pairs of bfloat16 at each position.
    static inline __attribute__((always_inline)) void transform_kernel(const bf16* from, long in, long left, Spread& to,
                                                                       int column) {
        const __mmask16 mask[2] = {first(left), left > 16 ? first(left - 16) : (__mmask16)0};
        vec u[2][POSITIONS];
        for (int part = 0; part < 2; part++) {
            vec columns[4][3];
            for (int x = 0; x < 3; x++) {
                vec g[3];
                for (int y = 0; y < 3; y++) g[y] = load(from + (3 * y + x) * in + part * 16, mask[part]);
                kernel(g, columns[0][x], columns[1][x], columns[2][x], columns[3][x]);
            }
            for (int r = 0; r < 4; r++)
                kernel(columns[r], u[part][4 * r], u[part][4 * r + 1], u[part][4 * r + 2], u[part][4 * r + 3]);
        }
        for (int p = 0; p < POSITIONS; p++)
            to[p][column] = (__m512i)_mm512_cvtne2ps_pbh(u[1][p], u[0][p]);
    }

    static inline void kernel(const vec g[3], vec& a, vec& b, vec& c, vec& d) {
        const vec half = _mm512_set1_ps(0.5f), ends = _mm512_mul_ps(half, _mm512_add_ps(g[0], g[2]));
        a = g[0];
        b = _mm512_fmadd_ps(half, g[1], ends);
        c = _mm512_fnmadd_ps(half, g[1], ends);
        d = g[2];
    }

    // Where x is repeated, the middle rows of each tile are alike, and so are its middle columns: their difference is 0.
    bool vanishes(int position) const { return up && (position / 4 == 2 || position % 4 == 2); }

    // Tiles first .. first + count of 4x4 inputs -> their 16 transforms [position][count][2 * pairs].
    void transform_inputs(long start, long count, bf16* v) const {
        const long in = this->in, pairs = this->pairs(), step = count * pairs * 2;
        for (long i = 0; i < count; i++) {
            const long tile = start + i, b = tile / (tiles_y() * tiles_x()), rest = tile % (tiles_y() * tiles_x());
            const long top = rest / tiles_x() * 2 - 1, left = rest % tiles_x() * 2 - 1;
            const X* at[POSITIONS];
            for (int r = 0; r < 4; r++)
                for (int c = 0; c < 4; c++) {
                    const long yy = top + r, xx = left + c;
                    const bool inside = yy >= 0 && yy < height && xx >= 0 && xx < width;
                    at[4 * r + c] =
                        inside ? x + ((b * (height >> up) + (yy >> up)) * (width >> up) + (xx >> up)) * in : nullptr;
                }
            for (long c = 0; c < in; c += 16) {
                const __mmask16 mask = first(in - c);
                vec d[4][4], t[4][4];
                for (int p = 0; p < POSITIONS; p++)
                    d[p / 4][p % 4] = at[p] ? load(at[p] + c, mask) : _mm512_setzero_ps();
                for (int k = 0; k < 4; k++) {
                    t[0][k] = _mm512_sub_ps(d[0][k], d[2][k]);
                    t[1][k] = _mm512_add_ps(d[1][k], d[2][k]);
                    t[2][k] = _mm512_sub_ps(d[2][k], d[1][k]);
                    t[3][k] = _mm512_sub_ps(d[1][k], d[3][k]);
                }
                bf16* to = v + i * pairs * 2 + c;
                for (int r = 0; r < 4; r++, to += 4 * step) {
                    store(to, _mm512_sub_ps(t[r][0], t[r][2]), mask);
                    store(to + step, _mm512_add_ps(t[r][1], t[r][2]), mask);
                    store(to + 2 * step, _mm512_sub_ps(t[r][2], t[r][1]), mask);
                    store(to + 3 * step, _mm512_sub_ps(t[r][1], t[r][3]), mask);
                }
            }
            if (in % 2)
                for (int p = 0; p < POSITIONS; p++) v[p * step + i * pairs * 2 + in] = 0;
        }
    }

    template <int R>
    inline __attribute__((always_inline)) void product(const bf16* v, const bf16* packed, float* m) const {
        Tile<R, 2, false> t;
        t.clear();
        t.multiply(v, pairs() * 2, packed, pairs());
        for (int r = 0; r < R; r++)
            for (int z = 0; z < 2; z++) _mm512_store_ps(m + r * WIDE + z * 16, t.c[r][z]);
    }

    // m [position][count][32] -> the 2x2 results of each tile.
    void transform_results(long start, long count, long panel, const float* m) const {
        const long step = count * WIDE, height = this->height, width = this->width, out = this->out;
        for (long i = 0; i < count; i++) {
            const long tile = start + i, b = tile / (tiles_y() * tiles_x()), rest = tile % (tiles_y() * tiles_x());
            const long top = rest / tiles_x() * 2, left = rest % tiles_x() * 2;
            for (long o = panel * WIDE; o < out && o < (panel + 1) * WIDE; o += 16) {
                const __mmask16 mask = first(out - o);
                const float* from = m + i * WIDE + (o - panel * WIDE);
                vec t[2][4];
                for (int c = 0; c < 4; c++) {
                    if (up && c == 2) {
                        t[0][c] = t[1][c] = _mm512_setzero_ps();
                        continue;
                    }
                    const vec m0 = _mm512_load_ps(from + c * step), m1 = _mm512_load_ps(from + (4 + c) * step);
                    const vec m2 = up ? _mm512_setzero_ps() : _mm512_load_ps(from + (8 + c) * step);
                    const vec m3 = _mm512_load_ps(from + (12 + c) * step);
                    t[0][c] = _mm512_add_ps(_mm512_add_ps(m0, m1), m2);
                    t[1][c] = _mm512_sub_ps(_mm512_sub_ps(m1, m2), m3);
                }
                const vec added = bias ? _mm512_maskz_loadu_ps(mask, bias + b * bias_step + o) : _mm512_setzero_ps();
                for (int r = 0; r < 2 && top + r < height; r++)
                    for (int c = 0; c < 2 && left + c < width; c++) {
                        vec sum = c == 0 ? _mm512_add_ps(_mm512_add_ps(t[r][0], t[r][1]), t[r][2])
                                         : _mm512_sub_ps(_mm512_sub_ps(t[r][1], t[r][2]), t[r][3]);
                        const long at = ((b * height + top + r) * width + left + c) * out + o;
                        sum = _mm512_add_ps(sum, added);
                        if (residual) sum = _mm512_add_ps(sum, load(residual + at, mask));
                        store(y + at, sum, mask);
                    }
            }
        }
    }

    // The results of one panel at tiles start .. start + count, from their transforms.
    void results(long start, long count, long panel, const bf16* v, const bf16* kernels, float* m) const {
        const long pairs = this->pairs();
        for (int position = 0; position < POSITIONS; position++, kernels += pairs * WIDE * 2) {
            if (vanishes(position)) continue;
            const bf16* from = v + position * count * pairs * 2;
            float* to = m + position * count * WIDE;
            long i = 0;
            for (; i + ROWS <= count; i += ROWS) product<ROWS>(from + i * pairs * 2, kernels, to + i * WIDE);
            for (; i < count; i++) product<1>(from + i * pairs * 2, kernels, to + i * WIDE);
        }
        transform_results(start, count, panel, m);
    }
};

// Many tiles, few channels: the kernels' transforms are shared, each task has tiles of its own.
template <class Job>
static void by_tiles(const Job& job, long count) {
    static thread_local Scratch scratch;
    const long panels = (job.out + WIDE - 1) / WIDE, size = job.panel_size(), tiles = job.tiles();
    long at_once = (16 << 20) / (size * (long)sizeof(bf16));  // as many panels as stay in the third-level cache
    at_once = at_once < 1 ? 1 : at_once > panels ? panels : at_once;
    bf16* packed = (bf16*)scratch.grow(at_once * size * sizeof(bf16));
    const long blocks = (tiles + count - 1) / count;
    Barrier barrier;
    Queue kernels, tasks;
#pragma omp parallel num_threads(team())
    {
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

// Few tiles, many channels: the tiles' transforms are shared, each task has results of its own.
template <class Job>
static void by_results(const Job& job, long count) {
    static thread_local Scratch scratch;
    const long panels = (job.out + WIDE - 1) / WIDE, tiles = job.tiles(), blocks = (tiles + count - 1) / count;
    const long values = POSITIONS * job.pairs() * 2;
    bf16* v = (bf16*)scratch.grow(tiles * values * sizeof(bf16));
    Barrier barrier;
    Queue inputs, tasks;
#pragma omp parallel num_threads(team())
    {
        static thread_local Scratch own;
        bf16* packed = (bf16*)own.grow(job.panel_size() * sizeof(bf16) + POSITIONS * count * WIDE * sizeof(float));
        float* m = (float*)(packed + job.panel_size());
        long task;
        auto here = [&](long start) { return start + count < tiles ? count : tiles - start; };
        while (inputs.take(blocks, task))
            job.transform_inputs(task * count, here(task * count), v + task * count * values);
        barrier.wait();
        while (tasks.take(panels, task)) {
            job.transform_kernels(task, packed);
            for (long start = 0; start < tiles; start += count)
                job.results(start, here(start), task, v + start * values, packed, m);
        }
    }
}

template <class Job>
static void run(const Job& job) {
    const long threads = team(), tiles = job.tiles();
    if (tiles <= 256) {
        by_results(job, tiles < 64 ? tiles : 64);
        return;
    }
    // The transforms of one task's tiles stay in the second-level cache.
    long count = (768 * 1024) / (POSITIONS * (job.pairs() * 4 + WIDE * 4)) / ROWS * ROWS;
    count = count < 64 ? 64 : count > 256 ? 256 : count;
    if (count * threads > tiles) count = (tiles / threads + ROWS - 1) / ROWS * ROWS;
    by_tiles(job, count < 16 ? 16 : count);
}

EXPORTED void diafano_convolution(const void* x, const bf16* w, const float* bias, long bias_step, const bf16* residual,
                                  void* y, long batch, long height, long width, long in, long out, int up,
                                  int float_in, int float_out) {
    auto with = [&](auto* from, auto* to) {
        run(Convolution<std::remove_pointer_t<decltype(from)>, std::remove_pointer_t<decltype(to)>>{
            from, w, bias, bias_step, residual, to, batch, height, width, in, out, up});
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
