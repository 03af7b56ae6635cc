// 3x3 convolution of stride 1 with one row of zeros around, by Winograd's F(2x2, 3x3) (Lavin and Gray 2016): a tile of
// 2x2 results takes 16 products for each pair of channels instead of 36. Everything but the products is done in
// float32; both factors are rounded to bfloat16 once more than in the plain convolution.

#pragma once

#include "tiles.h"

static constexpr int POSITIONS = 16;
static constexpr long FEW_TILES = 256;

// Vectors of 16 columns at each position; the 17th keeps the positions in different cache sets.
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

    // A tile has `side` x `side` results.
    long tiles_y(long side = 2) const { return (height + side - 1) / side; }
    long tiles_x(long side = 2) const { return (width + side - 1) / side; }
    long tiles(long side = 2) const { return batch * tiles_y(side) * tiles_x(side); }
    long pairs() const { return (in + 1) / 2; }

    // Where x is repeated, the middle rows of each tile are alike, and so are its middle columns: their difference is 0.
    bool vanishes(int position) const { return up && (position / 4 == 2 || position % 4 == 2); }

    // Where a tile's results begin.
    struct Place {
        long image, top, left;
    };
    Place place(long tile, long side = 2) const {
        const long each = tiles_y(side) * tiles_x(side), rest = tile % each;
        return {tile / each, rest / tiles_x(side) * side, rest % tiles_x(side) * side};
    }

    // The inputs of a tile, row by row, one more on each side than results; `outside` where the map has ended.
    void inputs(long tile, const X** at, long side = 2, const X* outside = nullptr) const {
        const Place from = place(tile, side);
        for (long r = 0; r < side + 2; r++)
            for (long c = 0; c < side + 2; c++) {
                const long yy = from.top - 1 + r, xx = from.left - 1 + c;
                const bool inside = yy >= 0 && yy < height && xx >= 0 && xx < width;
                at[(side + 2) * r + c] =
                    inside ? x + ((from.image * (height >> up) + (yy >> up)) * (width >> up) + (xx >> up)) * in
                           : outside;
            }
    }

    // 16 channels of a tile's inputs, transformed.
    static inline __attribute__((always_inline)) void transform_input(const X* const at[POSITIONS], long channel,
                                                                      __mmask16 mask, vec v[POSITIONS]) {
        vec t[4][4];
        for (int k = 0; k < 4; k++) {
            vec d[4];
            for (int r = 0; r < 4; r++)
                d[r] = at[4 * r + k] ? load(at[4 * r + k] + channel, mask) : _mm512_setzero_ps();
            t[0][k] = _mm512_sub_ps(d[0], d[2]);
            t[1][k] = _mm512_add_ps(d[1], d[2]);
            t[2][k] = _mm512_sub_ps(d[2], d[1]);
            t[3][k] = _mm512_sub_ps(d[1], d[3]);
        }
        for (int r = 0; r < 4; r++) {
            v[4 * r] = _mm512_sub_ps(t[r][0], t[r][2]);
            v[4 * r + 1] = _mm512_add_ps(t[r][1], t[r][2]);
            v[4 * r + 2] = _mm512_sub_ps(t[r][2], t[r][1]);
            v[4 * r + 3] = _mm512_sub_ps(t[r][1], t[r][3]);
        }
    }

    // 32 channels of a kernel [3][3][in], of which `left` are there: pairs of bfloat16 at each position. Rows and columns
    // 1 and 2 are twice as large as they should be, which `transform_results` makes up for: a factor of two is exact.
    static inline __attribute__((always_inline)) void transform_kernel(const bf16* from, long in, long left,
                                                                       __m512i u[POSITIONS]) {
        vec parts[2][POSITIONS];
        for (int part = 0; part < 2; part++) {
            const __mmask16 mask = left > part * 16 ? first(left - part * 16) : (__mmask16)0;
            vec columns[4][3];
            for (int x = 0; x < 3; x++) {
                vec g[3];
                for (int y = 0; y < 3; y++) g[y] = load(from + (3 * y + x) * in + part * 16, mask);
                twofold(g, columns[0][x], columns[1][x], columns[2][x], columns[3][x]);
            }
            for (int r = 0; r < 4; r++) {
                vec* to = parts[part] + 4 * r;
                twofold(columns[r], to[0], to[1], to[2], to[3]);
            }
        }
        for (int p = 0; p < POSITIONS; p++) u[p] = (__m512i)_mm512_cvtne2ps_pbh(parts[1][p], parts[0][p]);
    }

    static inline __attribute__((always_inline)) void twofold(const vec g[3], vec& a, vec& b, vec& c, vec& d) {
        const vec ends = _mm512_add_ps(g[0], g[2]);
        a = g[0];
        b = _mm512_add_ps(ends, g[1]);
        c = _mm512_sub_ps(ends, g[1]);
        d = g[2];
    }

    // Sums of products m[position * step] -> 2x2 results.
    inline __attribute__((always_inline)) void transform_results(const float* m, long step, vec results[2][2]) const {
        const vec half = _mm512_set1_ps(0.5f), zero = _mm512_setzero_ps();
        auto from = [&](int p) { return vanishes(p) ? zero : _mm512_load_ps(m + p * step); };
        auto both = [&](vec m0, vec m1, vec m2, vec m3, vec& sum, vec& difference) {
            sum = _mm512_fmadd_ps(_mm512_add_ps(m1, m2), half, m0);
            difference = _mm512_fmsub_ps(_mm512_sub_ps(m1, m2), half, m3);
        };
        vec t[2][4];
        for (int c = 0; c < 4; c++) both(from(c), from(4 + c), from(8 + c), from(12 + c), t[0][c], t[1][c]);
        for (int r = 0; r < 2; r++) both(t[r][0], t[r][1], t[r][2], t[r][3], results[r][0], results[r][1]);
    }

    // 16 channels of one result: with bias and residual to where it belongs.
    inline __attribute__((always_inline)) void put(const Place& from, int r, int c, long channel, vec sum) const {
        if (from.top + r >= height || from.left + c >= width) return;
        const __mmask16 mask = first(out - channel);
        const long at = ((from.image * height + from.top + r) * width + from.left + c) * out + channel;
        if (bias) sum = _mm512_add_ps(sum, _mm512_maskz_loadu_ps(mask, bias + from.image * bias_step + channel));
        if (residual) sum = _mm512_add_ps(sum, load(residual + at, mask));
        store(y + at, sum, mask);
    }
};

// The ways through a convolution: many tiles of few channels, few tiles of many channels, and larger tiles.
template <class X, class Y>
void by_tiles(const Convolution<X, Y>& job);
template <class X, class Y>
void by_results(const Convolution<X, Y>& job);
template <class X, class Y>
void by_large_tiles(const Convolution<X, Y>& job);
