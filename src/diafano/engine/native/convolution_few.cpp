// Convolutions with few tiles and many channels, where bringing the kernels into the order of the products would take as
// long as the products. Here the kernels are their rows, in the order in which they lie, and the tiles their columns:
// what is transposed is the inputs and the results, which are few.

#include "winograd.h"

static constexpr int ROWS = 8, WIDE = 32;
static constexpr long RESULTS = 32;   // channels of a task
static constexpr long CHANNELS = 256; // inputs whose kernels are transformed at a time: they stay in the cache

template <class X, class Y>
struct ByResults : Convolution<X, Y> {
    using Base = Convolution<X, Y>;

    long blocks() const { return (this->tiles() + WIDE - 1) / WIDE; }
    long block_size() const { return POSITIONS * this->pairs() * WIDE * 2; }  // of transformed inputs

    static constexpr int own[4] = {5, 6, 9, 10};  // the inputs of a tile that no other tile begins with

    // 16 tiles -> the 16 transforms of their inputs, as half a panel: [in / CHANNELS][position][CHANNELS / 2][32][2].
    void transform_inputs(long start, bf16* panels) const {
        alignas(64) Spread spread;
        const X* at[16][POSITIONS];
        const long in = this->in, pairs = this->pairs(), tiles = this->tiles();
        for (int i = 0; i < 16; i++)
            if (start + i < tiles) this->inputs(start + i, at[i]);
        for (long c = 0; c < in; c += 32) {
            for (int i = 0; i < 16; i++) {
                if (start + i < tiles)
                    for (const int p : own)  // what the tile does not share; it lies too far apart to be seen coming
                        if (at[i][p])
                            for (size_t line = 0; line < 32 * sizeof(X); line += 64)
                                _mm_prefetch((const char*)(at[i][p] + c + 32) + line, _MM_HINT_T0);
                vec v[2][POSITIONS];
                for (int part = 0; part < 2; part++) {
                    const long left = in - c - part * 16;
                    if (start + i < tiles && left > 0)
                        Base::transform_input(at[i], c + part * 16, first(left), v[part]);
                    else
                        for (int p = 0; p < POSITIONS; p++) v[part][p] = _mm512_setzero_ps();
                }
                for (int p = 0; p < POSITIONS; p++) spread[p][i] = (__m512i)_mm512_cvtne2ps_pbh(v[1][p], v[0][p]);
            }
            const long chunk = c / CHANNELS * CHANNELS, step = chunk_pairs(chunk), pair = (c - chunk) / 2;
            const long count = pairs - c / 2 < 16 ? pairs - c / 2 : 16;
            for (int p = 0; p < POSITIONS; p++) {
                if (this->vanishes(p)) continue;
                transpose(spread[p]);
                bf16* to = panels + chunk / 2 * POSITIONS * WIDE * 2 + (p * step + pair) * WIDE * 2;
                for (long k = 0; k < count; k++) _mm512_storeu_si512(to + k * WIDE * 2, spread[p][k]);
            }
        }
    }

    long chunk_pairs(long channel) const {
        const long left = this->pairs() - channel / 2;
        return left < CHANNELS / 2 ? left : CHANNELS / 2;
    }

    // Kernels of results start .. start + 32, as many channels as are transformed at a time: u[position][32][CHANNELS].
    void transform_kernels(long start, long channel, bf16* u) const {
        const long in = this->in, out = this->out, end = in - channel < CHANNELS ? in - channel : CHANNELS;
        const bf16* w = this->w;
        for (long i = 0; i < RESULTS && start + i < out; i++) {
            const bf16* from = w + (start + i) * 9 * in + channel;
            for (long c = 0; c < end; c += 32) {
                __m512i transformed[POSITIONS];
                Base::transform_kernel(from + c, in, end - c, transformed);
                for (int p = 0; p < POSITIONS; p++)
                    _mm512_storeu_si512(u + (p * RESULTS + i) * CHANNELS + c, transformed[p]);
            }
        }
    }

    // Kernels that will be transformed next, fetched while the processor multiplies: part `part` of `parts` of them.
    void fetch_kernels(long start, long channel, long part, long parts) const {
        if (channel >= this->in) {
            start += team() * RESULTS;
            channel = 0;
            if (start >= this->out) return;
        }
        const long rows = 9 * (this->out - start < RESULTS ? this->out - start : RESULTS);
        const long end = this->in - channel < CHANNELS ? this->in - channel : CHANNELS;
        for (long row = rows * part / parts; row < rows * (part + 1) / parts; row++)
            for (long c = 0; c < end; c += 32)
                _mm_prefetch((const char*)(this->w + (start * 9 + row) * this->in + channel + c), _MM_HINT_T1);
    }

    // m[position][32 results][32 tiles] (+)= u times a block of transformed inputs
    void products(const bf16* u, const bf16* v, long start, long channel, long block, float* m) const {
        const long pairs = chunk_pairs(channel), steps = RESULTS / ROWS;
        for (int p = 0; p < POSITIONS; p++, v += pairs * WIDE * 2) {
            if (this->vanishes(p)) continue;
            for (long r = 0; r < RESULTS; r += ROWS) {
                fetch_kernels(start, channel + CHANNELS, (block * POSITIONS + p) * steps + r / ROWS,
                              blocks() * POSITIONS * steps);
                float* to = m + (p * RESULTS + r) * WIDE;
#ifdef DIAFANO_TILES
                if (pairs % TILE_PAIRS == 0) {
                    if (r == 0) multiply_block(u + p * RESULTS * CHANNELS, CHANNELS, v, pairs, to, WIDE, channel > 0);
                    continue;
                }
#endif
                Tile<ROWS, 2, false> t;
                for (int i = 0; i < ROWS; i++)
                    for (int z = 0; z < 2; z++)
                        t.c[i][z] = channel ? _mm512_load_ps(to + i * WIDE + z * 16) : _mm512_setzero_ps();
                t.multiply(u + (p * RESULTS + r) * CHANNELS, CHANNELS, v, pairs);
                for (int i = 0; i < ROWS; i++)
                    for (int z = 0; z < 2; z++) _mm512_store_ps(to + i * WIDE + z * 16, t.c[i][z]);
            }
        }
    }

    // 32 results of up to 32 tiles.
    void results(long tile, long channel, const float* m) const {
        const long tiles = this->tiles();
        for (long o = 0; o < RESULTS && channel + o < this->out; o += 16)
            for (long first_tile = 0; first_tile < WIDE && tile + first_tile < tiles; first_tile += 16) {
                alignas(64) __m512i sums[2][2][16];
                for (int i = 0; i < 16; i++) {
                    vec each[2][2];
                    this->transform_results(m + (o + i) * WIDE + first_tile, RESULTS * WIDE, each);
                    for (int r = 0; r < 2; r++)
                        for (int c = 0; c < 2; c++) sums[r][c][i] = (__m512i)each[r][c];
                }
                for (int r = 0; r < 2; r++)
                    for (int c = 0; c < 2; c++) {
                        transpose(sums[r][c]);
                        for (int i = 0; i < 16 && tile + first_tile + i < tiles; i++)
                            this->put(this->place(tile + first_tile + i), r, c, channel + o, (vec)sums[r][c][i]);
                    }
            }
    }
};

template <class X, class Y>
void by_results(const Convolution<X, Y>& given) {
    const ByResults<X, Y> job{given};
    static thread_local Scratch scratch;
    const long blocks = job.blocks(), size = job.block_size();
    bf16* v = (bf16*)scratch.grow(blocks * size * sizeof(bf16));
    Barrier barrier;
    Queue inputs, tasks;
#pragma omp parallel num_threads(team())
    {
        const TileRegisters registers;
        static thread_local Scratch own;
        const long kernels = POSITIONS * RESULTS * CHANNELS, sums = POSITIONS * RESULTS * WIDE;
        bf16* u = (bf16*)own.grow(kernels * sizeof(bf16) + blocks * sums * sizeof(float));
        float* m = (float*)(u + kernels);
        long task;
        while (inputs.take(2 * blocks, task)) job.transform_inputs(task * 16, v + task / 2 * size + task % 2 * 32);
        barrier.wait();
        while (tasks.take((job.out + RESULTS - 1) / RESULTS, task)) {
            for (long channel = 0; channel < job.in; channel += CHANNELS) {
                job.transform_kernels(task * RESULTS, channel, u);
                for (long b = 0; b < blocks; b++)
                    job.products(u, v + b * size + channel / 2 * POSITIONS * WIDE * 2, task * RESULTS, channel, b, m + b * sums);
            }
            for (long b = 0; b < blocks; b++) job.results(b * WIDE, task * RESULTS, m + b * sums);
        }
    }
}

template void by_results(const Convolution<float, float>&);
template void by_results(const Convolution<float, bf16>&);
template void by_results(const Convolution<bf16, bf16>&);
