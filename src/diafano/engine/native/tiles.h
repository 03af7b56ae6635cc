// AMX (Intel, from Sapphire Rapids on): registers of 16 rows of 64 bytes, and an instruction that multiplies two of them.
//
// Where the library is compiled with DIAFANO_TILES, it multiplies by these: a block of 32 x 32 results takes four registers,
// two hold its rows and two its columns. A panel [k / 2][32][2] is what the instruction wants of a right factor, so
// that everything is packed as without. What else has to be done is done `beside` the products, in portions: a
// multiplication of registers takes 16 cycles, in which the processor's other parts stand idle.
//
// With DIAFANO_TILES=2 the instructions are done in plain C++: so the tests run where the processor has none.

#pragma once

#include <unistd.h>

#include <type_traits>

#include "common.h"

#ifdef DIAFANO_TILES

#include <sys/syscall.h>

static constexpr bool EMULATED = DIAFANO_TILES == 2;
static constexpr long TILE_ROWS = 16, TILE_PAIRS = 16;  // of a register; its rows are 16 pairs of bfloat16 or 16 floats
static constexpr long BLOCK_ROWS = 32;
static constexpr long ROWS_TOGETHER = BLOCK_ROWS;  // a task has a multiple of them, where it can

struct TileRegister {
    uint32_t rows[TILE_ROWS][TILE_PAIRS];
};
static thread_local TileRegister emulated[8];

template <int T>
static inline __attribute__((always_inline)) void tile_zero() {
    if (EMULATED)
        emulated[T] = {};
    else
        asm volatile("tilezero %%tmm%c0" ::"i"(T));
}

// Rows lie `stride` bytes apart.
template <int T>
static inline __attribute__((always_inline)) void tile_load(const void* from, long stride) {
    if (EMULATED)
        for (long r = 0; r < TILE_ROWS; r++) memcpy(emulated[T].rows[r], (const char*)from + r * stride, 64);
    else
        asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(from), "r"(stride), "i"(T) : "memory");
}

template <int T>
static inline __attribute__((always_inline)) void tile_store(void* to, long stride) {
    if (EMULATED)
        for (long r = 0; r < TILE_ROWS; r++) memcpy((char*)to + r * stride, emulated[T].rows[r], 64);
    else
        asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(to), "r"(stride), "i"(T) : "memory");
}

static inline void emulated_product(TileRegister& sums, const TileRegister& a, const TileRegister& b) {
    auto number = [](uint32_t bits) {
        float value;
        memcpy(&value, &bits, 4);
        return value;
    };
    for (long m = 0; m < TILE_ROWS; m++)
        for (long k = 0; k < TILE_PAIRS; k++)
            for (long n = 0; n < TILE_PAIRS; n++) {
                const uint32_t x = a.rows[m][k], y = b.rows[k][n];
                const float sum = number(sums.rows[m][n]) + number(x << 16) * number(y << 16) +
                                  number(x & 0xffff0000u) * number(y & 0xffff0000u);
                memcpy(&sums.rows[m][n], &sum, 4);
            }
}

// C[m][n] += A[m][2k] B[k][2n] + A[m][2k + 1] B[k][2n + 1], floats += pairs of bfloat16.
template <int C, int A, int B>
static inline __attribute__((always_inline)) void tile_multiply() {
    if (EMULATED)
        emulated_product(emulated[C], emulated[A], emulated[B]);
    else
        asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(C), "i"(A), "i"(B));
}

// The calling thread's registers, all of full size, as long as this lives. They are released, for what is in them slows
// down each change of threads, and other libraries look whether they are in use.
struct TileRegisters {
    TileRegisters() {
        struct alignas(64) {
            uint8_t palette = 1, start = 0, reserved[14] = {};
            uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
            uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
        } shape;
        if (!EMULATED) asm volatile("ldtilecfg %0" ::"m"(shape));
    }
    ~TileRegisters() {
        if (!EMULATED) asm volatile("tilerelease");
    }
    TileRegisters(const TileRegisters&) = delete;
};

// Portions in which something is done beside a block's products, and how many of its rows are a portion.
static inline long portions(long pairs) { return pairs / TILE_PAIRS * 4; }
static inline long rows_beside(long pairs) { return (BLOCK_ROWS + portions(pairs) - 1) / portions(pairs); }

struct Nothing {
    void operator()(long) const {}
};

// c[32][32] = a[32][2 * pairs] times a panel, or is added to where it has `begun`; pairs is a multiple of 16. Rows of a
// and c lie lda and ldc values apart. beside(i) is called for i = 0 .. portions - 1.
template <class Beside = Nothing>
static inline __attribute__((always_inline)) void multiply_block(const bf16* a, long lda, const bf16* panel, long pairs,
                                                                 float* c, long ldc, bool begun,
                                                                 const Beside& beside = {}) {
    constexpr long COLUMNS = 32;
    const long row = ldc * (long)sizeof(float);
    const long a_row = lda * (long)sizeof(bf16), b_row = COLUMNS * 2 * (long)sizeof(bf16);
    float* second = c + TILE_ROWS * ldc;
    if (begun) {
        tile_load<0>(c, row), tile_load<1>(c + 16, row);
        tile_load<2>(second, row), tile_load<3>(second + 16, row);
    } else {
        tile_zero<0>(), tile_zero<1>(), tile_zero<2>(), tile_zero<3>();
    }
    for (long k = 0, portion = 0; k < pairs; k += TILE_PAIRS) {
        const bf16* b = panel + k * COLUMNS * 2;
        tile_load<4>(a + 2 * k, a_row);
        tile_load<6>(b, b_row);
        tile_multiply<0, 4, 6>();
        beside(portion++);
        tile_load<5>(a + TILE_ROWS * lda + 2 * k, a_row);
        tile_multiply<2, 5, 6>();
        beside(portion++);
        tile_load<7>(b + 32, b_row);
        tile_multiply<1, 4, 7>();
        beside(portion++);
        tile_multiply<3, 5, 7>();
        beside(portion++);
    }
    tile_store<0>(c, row), tile_store<1>(c + 16, row);
    tile_store<2>(second, row), tile_store<3>(second + 16, row);
}

// c[32][16 * COLUMNS] += a[32][2 * pairs] times as many columns of a panel [pairs][width][2]; COLUMNS is 1 to 3.
template <int COLUMNS>
static inline __attribute__((always_inline)) void add_columns(const bf16* a, long lda, const bf16* panel, long width,
                                                              long pairs, float* c, long ldc) {
    const long row = ldc * (long)sizeof(float), a_row = lda * (long)sizeof(bf16), b_row = width * 2 * (long)sizeof(bf16);
    float* second = c + TILE_ROWS * ldc;
    tile_load<0>(c, row), tile_load<3>(second, row);
    if (COLUMNS > 1) tile_load<1>(c + 16, row), tile_load<4>(second + 16, row);
    if (COLUMNS > 2) tile_load<2>(c + 32, row), tile_load<5>(second + 32, row);
    for (long k = 0; k < pairs; k += TILE_PAIRS) {
        const bf16* b = panel + k * width * 2;
        auto half = [&](auto first, const bf16* from) __attribute__((always_inline)) {
            constexpr int C = decltype(first)::value;
            tile_load<6>(from, a_row);
            tile_load<7>(b, b_row);
            tile_multiply<C, 6, 7>();
            if (COLUMNS > 1) tile_load<7>(b + 32, b_row), tile_multiply<C + 1, 6, 7>();
            if (COLUMNS > 2) tile_load<7>(b + 64, b_row), tile_multiply<C + 2, 6, 7>();
        };
        half(std::integral_constant<int, 0>(), a + 2 * k);
        half(std::integral_constant<int, 3>(), a + TILE_ROWS * lda + 2 * k);
    }
    tile_store<0>(c, row), tile_store<3>(second, row);
    if (COLUMNS > 1) tile_store<1>(c + 16, row), tile_store<4>(second + 16, row);
    if (COLUMNS > 2) tile_store<2>(c + 32, row), tile_store<5>(second + 32, row);
}

#else

static constexpr long ROWS_TOGETHER = 8;

struct TileRegisters {
    TileRegisters() {}  // there are none
};

#endif
