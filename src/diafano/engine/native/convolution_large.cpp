// 3x3 convolutions by F(4x4, 3x3): a tile of 4x4 results takes 36 products for each pair of channels, so 2.25 for each
// result instead of the 4 of F(2x2, 3x3).
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

#include <cmath>

#include "winograd.h"

static constexpr int SIDE = 6, PRODUCTS = SIDE * SIDE;
static constexpr int ROWS = 8, WIDE = 32;
static constexpr long RESULTS = 32;    // channels of a task
static constexpr long CHANNELS = 256;  // inputs whose products are added as integers
static constexpr long APART = 32;      // a cache line between what is alike for each product: not all in one cache set
static constexpr long SUMS = RESULTS * WIDE + 16;  // at one of the products; as much apart
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
template void by_large_tiles(const Convolution<bf16, float>&);
template void by_large_tiles(const Convolution<bf16, bf16>&);
