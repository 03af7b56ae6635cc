// Convolutions by large tiles, F(4x4, 3x3), whose arithmetic `winograd_large.h` explains. Kernels are the rows of the
// products, in the order in which they lie, and tiles their columns: what is transposed is inputs and results. A task
// has some of the kernels, which it transforms for itself, and tiles of a band, whose inputs are transformed together.

#include "winograd.h"
#include "winograd_large.h"

static constexpr int ROWS = 8, WIDE = 32;
static constexpr long RESULTS = 32;  // channels of a task
static constexpr long APART = 32;    // a cache line between what is alike for each product: not all in one cache set
static constexpr long SUMS = RESULTS * WIDE + 16;  // at one of the products; as much apart

template <class X, class Y>
struct ByLargeTiles : Convolution<X, Y> {
    using Base = Convolution<X, Y>;
    using typename Base::Place;

    const long tiles, padded;  // channels, in vectors of 32
    const long chunk;          // of them, that are added as integers: equal shares
    const long slab;           // inputs [32 tiles] or kernels [32 results], a chunk of them, at one of the products
    const long block_size;     // of inputs

    explicit ByLargeTiles(const Base& given)
        : Base(given),
          tiles(given.tiles(4)),
          padded((given.in + 31) / 32 * 32),
          chunk(share(padded, (padded + CHANNELS - 1) / CHANNELS)),
          slab(chunk * WIDE + APART),
          block_size((padded + chunk - 1) / chunk * PRODUCTS * slab) {}

    static long share(long channels, long parts) { return ((channels + parts - 1) / parts + 31) / 32 * 32; }

    // 16 tiles -> the transforms of their inputs, as half a panel: [in / chunk][product][chunk / 2][32 tiles][2], slabs
    // apart, and what undoes their scales.
    void transform_inputs(long start, const X* zeros, int16_t* panels, float* inverse) const {
        alignas(64) __m512i spread[PRODUCTS][17];  // the 17th keeps them in different cache sets
        const X* at[16][PRODUCTS];
        float by[16][PRODUCTS];
        const long in = this->in;
        const long there = tiles - start < 16 ? tiles - start : 16;
        for (long i = 0; i < 16; i++) {
            inverse[i] = 0;
            if (i >= there) continue;
            this->inputs(start + i, at[i], 4, zeros);
            const Scale scale = Scale::of(in, chunk, 16, LONGEST_INPUT, [&](long c) {
                const __mmask16 mask = first(in - c);
                vec sum[4] = {all(0), all(0), all(0), all(0)};
#pragma GCC unroll 9
                for (int p = 0; p < PRODUCTS; p += 4)
#pragma GCC unroll 4
                    for (int j = 0; j < 4; j++) {
                        const vec d = load(at[i][p + j] + c, mask);
                        sum[j] = _mm512_fmadd_ps(d, d, sum[j]);
                    }
                return _mm512_add_ps(_mm512_add_ps(sum[0], sum[1]), _mm512_add_ps(sum[2], sum[3]));
            });
            inverse[i] = scale.inverse;
            for (int p = 0; p < PRODUCTS; p++) by[i][p] = factors.input[p] * scale.factor;
        }
        for (long i = there; i < 16; i++)
            for (int p = 0; p < PRODUCTS; p++) spread[p][i] = _mm512_setzero_si512();
        for (long c = 0; c < in; c += 32) {
            for (long i = 0; i < there; i++) {
                vec t[2][PRODUCTS];
                for (int part = 0; part < 2; part++) {
                    const __mmask16 mask = in - c > part * 16 ? first(in - c - part * 16) : (__mmask16)0;
                    for (int k = 0; k < SIDE; k++) {
                        vec d[SIDE];
                        for (int r = 0; r < SIDE; r++) d[r] = load(at[i][SIDE * r + k] + c + part * 16, mask);
                        transform_six(d, t[part] + k, SIDE);
                    }
                }
                for (int r = 0; r < SIDE; r++) {
                    vec v[2][SIDE];
                    for (int part = 0; part < 2; part++) transform_six(t[part] + SIDE * r, v[part], 1);
                    for (int k = 0; k < SIDE; k++)
                        spread[SIDE * r + k][i] = fixed_point(v[0][k], v[1][k], by[i][SIDE * r + k]);
                }
            }
            const long begin = c / chunk;
            for (int p = 0; p < PRODUCTS; p++) {
                __m512i columns[16];
                for (int i = 0; i < 16; i++) columns[i] = spread[p][i];
                transpose(columns);
                int16_t* to = panels + (begin * PRODUCTS + p) * slab + (c - begin * chunk) * WIDE;
                for (int k = 0; k < 16; k++) _mm512_storeu_si512(to + k * WIDE * 2, columns[k]);
            }
        }
    }

    Scale kernel_scale(long o) const {
        const bf16* from = this->w + o * 9 * this->in;
        return Scale::of(this->in, chunk, 32, LONGEST_KERNEL, [&](long c) {
            const long left = this->in - c;
            const __mmask32 mask = left >= 32 ? 0xffffffffu : (1u << left) - 1;
            vec sum[3] = {all(0), all(0), all(0)};
            for (int k = 0; k < 9; k++) {  // two channels a lane: what is largest is not less for that
                const __m512bh g = (__m512bh)_mm512_maskz_loadu_epi16(mask, from + k * this->in + c);
                sum[k % 3] = _mm512_dpbf16_ps(sum[k % 3], g, g);
            }
            return _mm512_add_ps(_mm512_add_ps(sum[0], sum[1]), sum[2]);
        });
    }

    // Kernels of results start .. start + 32, a chunk of their channels: u[product][32][wide], slabs apart.
    void transform_kernels(long start, long begin, long wide, const Scale* scales, int16_t* u) const {
        const long in = this->in;
        for (long i = 0; i < RESULTS && start + i < this->out; i++) {
            float by[PRODUCTS];
            for (int p = 0; p < PRODUCTS; p++) by[p] = factors.kernel[p] * scales[i].factor;
            for (long c = begin; c < begin + wide; c += 32) {
                const bf16* from = this->w + (start + i) * 9 * in + c;
                vec columns[2][SIDE][3];
                for (int part = 0; part < 2; part++) {
                    const __mmask16 mask = in - c > part * 16 ? first(in - c - part * 16) : (__mmask16)0;
                    for (int x = 0; x < 3; x++) {
                        vec g[3];
                        for (int y = 0; y < 3; y++) g[y] = load(from + (3 * y + x) * in + part * 16, mask);
                        transform_three(g, columns[part][0] + x, 3);
                    }
                }
                for (int r = 0; r < SIDE; r++) {
                    vec v[2][SIDE];
                    for (int part = 0; part < 2; part++) transform_three(columns[part][r], v[part], 1);
                    for (int k = 0; k < SIDE; k++)
                        _mm512_storeu_si512(u + (SIDE * r + k) * slab + i * wide + c - begin,
                                            fixed_point(v[0][k], v[1][k], by[SIDE * r + k]));
                }
            }
        }
    }

    // sums[32 results][32 tiles] (+)= kernels [32][wide] times inputs [wide / 2][32][2]. What comes next is fetched.
    static void products(const int16_t* kernels, const int16_t* inputs, long wide, bool begun, float* sums,
                         const int16_t* next_inputs, const float* next_sums) {
        const char* next = (const char*)next_inputs;
        for (long row = 0; row < RESULTS; row += ROWS) {
            for (long line = 0; line < ROWS * WIDE; line += 16)
                _mm_prefetch((const char*)(next_sums + row * WIDE + line), _MM_HINT_T0);
            __m512i c[ROWS][2];
            for (int r = 0; r < ROWS; r++) c[r][0] = c[r][1] = _mm512_setzero_si512();
            const int16_t *u = kernels + row * wide, *v = inputs;
            for (long k = 0; k < wide; k += 8, next += 128) {  // 128 bytes, a quarter of what it reads
                _mm_prefetch(next, _MM_HINT_T1);
                _mm_prefetch(next + 64, _MM_HINT_T1);
#pragma GCC unroll 4
                for (int step = 0; step < 8; step += 2, v += WIDE * 2) {
                    const __m512i v0 = _mm512_load_si512(v), v1 = _mm512_load_si512(v + WIDE);
#pragma GCC unroll 8
                    for (int r = 0; r < ROWS; r++) {
                        int pair;
                        memcpy(&pair, u + r * wide + k + step, 4);
                        const __m512i both = _mm512_set1_epi32(pair);
                        c[r][0] = _mm512_dpwssd_epi32(c[r][0], both, v0);
                        c[r][1] = _mm512_dpwssd_epi32(c[r][1], both, v1);
                    }
                }
            }
            for (int r = 0; r < ROWS; r++)
                for (int z = 0; z < 2; z++) {
                    float* to = sums + (row + r) * WIDE + z * 16;
                    const vec sum = _mm512_cvtepi32_ps(c[r][z]);
                    _mm512_store_ps(to, begun ? _mm512_add_ps(_mm512_load_ps(to), sum) : sum);
                }
        }
    }

    // A tile's results, as far as they are inside of the map.
    struct Inside {
        const float* bias;
        long at, rows, columns;
    };
    Inside inside(long tile) const {
        const Place place = this->place(tile, 4);
        const long rows = this->height - place.top, columns = this->width - place.left;
        return {this->bias ? this->bias + place.image * this->bias_step : nullptr,
                ((place.image * this->height + place.top) * this->width + place.left) * this->out,
                rows < 4 ? rows : 4, columns < 4 ? columns : 4};
    }

    // Calls it with a result's number in its tile and with where its channels begin.
    template <class F>
    inline __attribute__((always_inline)) void each(const Inside& tile, F call) const {
        for (long r = 0; r < tile.rows; r++)
            for (long c = 0; c < tile.columns; c++) call(4 * r + c, tile.at + (r * this->width + c) * this->out);
    }

    // 32 results of up to 32 tiles, from m[product][32 results][32 tiles], SUMS apart.
    void results(long tile, long channel, const float* m, const float* inverse, const Scale* scales) const {
        alignas(64) __m512i made[16][16];
        for (long half = 0; half < WIDE && tile + half < tiles; half += 16) {
            const long there = tiles - tile - half < 16 ? tiles - tile - half : 16;
            const vec undo = _mm512_loadu_ps(inverse + half);
            Inside to[16];
            for (long i = 0; i < there; i++) to[i] = inside(tile + half + i);
            for (long o = channel; o < channel + RESULTS && o < this->out; o += 16) {
                const float* from = m + (o - channel) * WIDE + half;
                for (int i = 0; i < 16 && o + i < this->out; i++, from += WIDE) {
                    vec t[4][SIDE];
                    for (int c = 0; c < SIDE; c++) {
                        vec column[SIDE], y[4];
                        for (int r = 0; r < SIDE; r++) {
                            column[r] = _mm512_load_ps(from + (SIDE * r + c) * SUMS);
                            _mm_prefetch((const char*)(from + (SIDE * r + c) * SUMS + 2 * WIDE), _MM_HINT_T0);
                        }
                        transform_sums(column, y);
                        for (int r = 0; r < 4; r++) t[r][c] = y[r];
                    }
                    const vec scale = _mm512_mul_ps(undo, all(scales[o + i - channel].inverse));
                    for (int r = 0; r < 4; r++) {
                        vec y[4];
                        transform_sums(t[r], y);
                        for (int c = 0; c < 4; c++) made[4 * r + c][i] = (__m512i)_mm512_mul_ps(y[c], scale);
                    }
                    if (i < there)  // fetched while the others are transformed
                        each(to[i], [&](long, long at) {
                            __builtin_prefetch(this->y + at + o, 1, 2);  // to the second-level cache:
                            if (this->residual) __builtin_prefetch(this->residual + at + o, 0, 2);  // it is much
                        });
                }
                for (int p = 0; p < 16; p++) transpose(made[p]);
                const __mmask16 mask = first(this->out - o);
                for (long i = 0; i < there; i++) {
                    const vec bias = to[i].bias ? load(to[i].bias + o, mask) : all(0);
                    each(to[i], [&](long p, long at) {
                        vec sum = _mm512_add_ps((vec)made[p][i], bias);
                        if (this->residual) sum = _mm512_add_ps(sum, load(this->residual + at + o, mask));
                        store(this->y + at + o, sum, mask);
                    });
                }
            }
        }
    }
};

template <class X, class Y>
void by_large_tiles(const Convolution<X, Y>& given) {
    const ByLargeTiles<X, Y> job(given);
    static thread_local Scratch scratch;
    const long blocks = (job.tiles + WIDE - 1) / WIDE, size = job.block_size, chunk = job.chunk;
    const long panels = (job.out + RESULTS - 1) / RESULTS;
    long band = (12 << 20) / (size * (long)sizeof(int16_t));  // blocks whose inputs stay in the third-level cache
    band = band < 1 ? 1 : band > 16 ? 16 : band;
    const long bands = (blocks + band - 1) / band;
    band = (blocks + bands - 1) / bands;  // of one size
    long parts = (3 * team() + panels - 1) / panels;  // of a band, each with its own transforms of the kernels
    parts = parts > band ? band : parts;
    const long zeros_size = (job.in * sizeof(X) + 63) / 64 * 64;
    char* memory = (char*)scratch.grow(band * size * sizeof(int16_t) + band * WIDE * sizeof(float) + zeros_size);
    int16_t* v = (int16_t*)memory;
    float* inverse = (float*)(v + band * size);
    X* zeros = (X*)(inverse + band * WIDE);
    memset(zeros, 0, zeros_size);
    Barrier barrier;
    Queue inputs, tasks;
#pragma omp parallel num_threads(team())
    {
        static thread_local Scratch own;
        const long sums = PRODUCTS * SUMS, kernels = PRODUCTS * job.slab;
        int16_t* u = (int16_t*)own.grow(kernels * sizeof(int16_t) + band * sums * sizeof(float));
        float* m = (float*)(u + kernels);
        for (long begin = 0, task; begin < blocks; begin += band) {
            const long here = blocks - begin < band ? blocks - begin : band;
            while (inputs.take(2 * here, task))
                job.transform_inputs((begin * 2 + task) * 16, zeros, v + task / 2 * size + task % 2 * WIDE,
                                     inverse + task * 16);
            barrier.wait();
            while (tasks.take(panels * parts, task)) {
                const long channel = task / parts * RESULTS, part = task % parts;
                const long from = here * part / parts, to = here * (part + 1) / parts;
                Scale scales[RESULTS];
                for (long o = 0; o < RESULTS && channel + o < job.out; o++) scales[o] = job.kernel_scale(channel + o);
                for (long c = 0; c < job.padded; c += chunk) {
                    const long wide = job.padded - c < chunk ? job.padded - c : chunk;
                    job.transform_kernels(channel, c, wide, scales, u);
                    const int16_t* inputs_at = v + from * size + c / chunk * PRODUCTS * job.slab;
                    for (int p = 0; p < PRODUCTS; p++)
                        for (long b = 0; b < to - from; b++) {
                            const bool last = b + 1 == to - from;
                            const long next_b = last ? 0 : b + 1, next_p = last ? p + 1 : p;
                            job.products(u + p * job.slab, inputs_at + b * size + p * job.slab, wide, c > 0,
                                         m + b * sums + p * SUMS, inputs_at + next_b * size + next_p * job.slab,
                                         m + next_b * sums + next_p * SUMS);
                        }
                }
                for (long b = from; b < to; b++)
                    job.results((begin + b) * WIDE, channel, m + (b - from) * sums, inverse + b * WIDE, scales);
            }
            barrier.wait();
            inputs.next = tasks.next = 0;  // by all threads, before the next barrier that any of them passes
            barrier.wait();
        }
    }
}

template void by_large_tiles(const Convolution<float, float>&);
template void by_large_tiles(const Convolution<float, bf16>&);
