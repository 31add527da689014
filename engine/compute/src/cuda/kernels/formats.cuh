// Block formats in the tile layout of the cpu backend (cpu/tile.rs, cpu/planes.rs): a chunk is one stored block of each
// of sixteen rows: d f16 x 16 | dmin f16 x 16 | scales [sub][16] | minima [sub][16] | steps of 32 weights as planes.
#pragma once
#include "contract.cuh"

#if defined(__CUDACC__)
#define DEVICE __device__ __forceinline__
#else
#define DEVICE static inline
#endif

enum Scales { D_ONLY = 0, U8_SCALES = 1, I8_SCALES = 2 };
enum Minima { NO_MIN = 0, U8_MINIMA = 1, ADDED = 2 };

// LOW, HIGH: bits of the two planes. LEVELS: the quant is an index into the table of IQ4_NL. STEPS: of a chunk. SUBS:
// scales of a step. OFFSET: what the stored quant has too much.
template <int LOW_, int HIGH_, bool LEVELS_, int STEPS_, int SUBS_, int SCALES_, int MINIMA_, int OFFSET_>
struct Format {
    static const int LOW = LOW_, HIGH = HIGH_, STEPS = STEPS_, SUBS = SUBS_, OFFSET = OFFSET_;
    static const bool LEVELS = LEVELS_, HAS_MIN = MINIMA_ != NO_MIN;
    static const int KIND = SCALES_, MINIMA = MINIMA_;
    static const int SCALES_AT = HAS_MIN ? 64 : 32;
    static const int MINIMA_AT = SCALES_AT + (KIND != D_ONLY ? 16 * STEPS * SUBS : 0);
    static const int QUANTS_AT = MINIMA_AT + (MINIMA == U8_MINIMA ? 16 * STEPS * SUBS : 0);
    static const int STEP_BYTES = 64 * (LOW + HIGH);
    static const int CHUNK = QUANTS_AT + STEPS * STEP_BYTES;
    // Words that one lane reads of a step.
    static const int LOW_WORDS = LOW == 4 ? 2 : 4;
    static const int WORDS = LOW_WORDS + (HIGH == 0 ? 0 : HIGH == 1 ? 2 : 4);
    // Words of one row in a step.
    static const int ROW_WORDS = LOW + HIGH;
};

// By ggml's type ids.                low high levels steps subs  scales     minima    offset
template <int TYPE> struct Of;
template <> struct Of<2>  { typedef Format<4, 0, false, 1, 1, D_ONLY, NO_MIN, 8> F; };        // Q4_0
template <> struct Of<3>  { typedef Format<4, 0, false, 1, 1, D_ONLY, ADDED, 0> F; };         // Q4_1
template <> struct Of<6>  { typedef Format<4, 1, false, 1, 1, D_ONLY, NO_MIN, 16> F; };       // Q5_0
template <> struct Of<7>  { typedef Format<4, 1, false, 1, 1, D_ONLY, ADDED, 0> F; };         // Q5_1
template <> struct Of<8>  { typedef Format<8, 0, false, 1, 1, D_ONLY, NO_MIN, 0> F; };        // Q8_0
template <> struct Of<10> { typedef Format<2, 0, false, 8, 2, U8_SCALES, U8_MINIMA, 0> F; };  // Q2_K
template <> struct Of<11> { typedef Format<2, 1, false, 8, 2, I8_SCALES, NO_MIN, 4> F; };     // Q3_K
template <> struct Of<12> { typedef Format<4, 0, false, 8, 1, U8_SCALES, U8_MINIMA, 0> F; };  // Q4_K
template <> struct Of<13> { typedef Format<4, 1, false, 8, 1, U8_SCALES, U8_MINIMA, 0> F; };  // Q5_K
template <> struct Of<14> { typedef Format<4, 2, false, 8, 2, I8_SCALES, NO_MIN, 32> F; };    // Q6_K
template <> struct Of<20> { typedef Format<4, 0, true, 1, 1, D_ONLY, NO_MIN, 0> F; };         // IQ4_NL
template <> struct Of<23> { typedef Format<4, 0, true, 8, 1, I8_SCALES, NO_MIN, 0> F; };      // IQ4_XS

// Calls `body` with the type of a block format.
#define WITH_FORMAT(type, body)                                                                          \
    switch (type) {                                                                                      \
    case 2: body(Of<2>::F); break;                                                                       \
    case 3: body(Of<3>::F); break;                                                                       \
    case 6: body(Of<6>::F); break;                                                                       \
    case 7: body(Of<7>::F); break;                                                                       \
    case 8: body(Of<8>::F); break;                                                                       \
    case 10: body(Of<10>::F); break;                                                                     \
    case 11: body(Of<11>::F); break;                                                                     \
    case 12: body(Of<12>::F); break;                                                                     \
    case 13: body(Of<13>::F); break;                                                                     \
    case 14: body(Of<14>::F); break;                                                                     \
    case 20: body(Of<20>::F); break;                                                                     \
    case 23: body(Of<23>::F); break;                                                                     \
    default: break;                                                                                      \
    }

// The chunk that holds a step, and the step's planes.
template <class F> DEVICE const u8* chunk_of(const u8* tile, int step) {
    return tile + (size_t)(step / F::STEPS) * F::CHUNK;
}
template <class F> DEVICE const u8* planes_of(const u8* tile, int step) {
    return chunk_of<F>(tile, step) + F::QUANTS_AT + step % F::STEPS * F::STEP_BYTES;
}

// Levels of IQ4_NL and IQ4_XS, four signed bytes to a word.
#define LEVELS_0 0xbfad9881u
#define LEVELS_1 0xf6eaddcfu
#define LEVELS_2 0x26190d01u
#define LEVELS_3 0x71594535u

// Stored quant `i` of 32 of a row, by bytes: for rows that are looked up, not multiplied by.
template <class F> DEVICE int quant_at(const u8* planes, int row, int i) {
    int group = i / 4, at = 4 * row + i % 4, q;
    if (F::LOW == 8) return (i8)planes[64 * group + at];
    if (F::LOW == 4) {
        q = planes[64 * (group % 4) + at] >> (4 * (group / 4)) & 15;
    } else {
        q = planes[64 * (group / 4) + at] >> (2 * (group % 4)) & 3;
    }
    const u8* high = planes + 64 * F::LOW;
    if (F::HIGH == 1) q |= (high[at] >> group & 1) << F::LOW;
    if (F::HIGH == 2) q |= (high[64 * (group / 4) + at] >> (2 * (group % 4)) & 3) << F::LOW;
    if (F::LEVELS) {
        u32 word = q < 4 ? LEVELS_0 : q < 8 ? LEVELS_1 : q < 12 ? LEVELS_2 : LEVELS_3;
        q = (i8)(word >> (8 * (q % 4)));
    }
    return q;
}

#if defined(__CUDACC__)

DEVICE u32 word_at(const u8* p) { return __ldg((const u32*)p); }
DEVICE float half_at(const u8* p) { return half_to_float(__ldg((const u16*)p)); }

// Scale of a row for sub-run `sub` of a chunk, and its minimum.
template <class F> DEVICE float scale_of(const u8* chunk, int sub, int row) {
    float d = half_at(chunk + 2 * row);
    if (F::KIND == U8_SCALES) return d * (float)__ldg(chunk + F::SCALES_AT + 16 * sub + row);
    if (F::KIND == I8_SCALES) return d * (float)(i8)__ldg(chunk + F::SCALES_AT + 16 * sub + row);
    return d;
}
template <class F> DEVICE float min_of(const u8* chunk, int sub, int row) {
    if (F::MINIMA == U8_MINIMA) return half_at(chunk + 32 + 2 * row) * (float)__ldg(chunk + F::MINIMA_AT + 16 * sub + row);
    if (F::MINIMA == ADDED) return 0.0f - half_at(chunk + 32 + 2 * row);
    return 0.0f;
}

// What lane 4 g + t reads of a step: the words with quants 4 t.. and 16 + 4 t.. of rows g and g + 8.
template <class F> DEVICE void load_words(u32 raw[], const u8* planes, int g, int t) {
    const u8* low = planes + 4 * g;
    if (F::LOW == 4) {
        raw[0] = word_at(low + 64 * t);
        raw[1] = word_at(low + 64 * t + 32);
    } else {
        int a = F::LOW == 8 ? 64 * t : 0, b = F::LOW == 8 ? 64 * t + 256 : 64;
        raw[0] = word_at(low + a);
        raw[1] = word_at(low + a + 32);
        raw[2] = word_at(low + b);
        raw[3] = word_at(low + b + 32);
    }
    const u8* high = low + 64 * F::LOW;
    if (F::HIGH >= 1) {
        raw[F::LOW_WORDS] = word_at(high);
        raw[F::LOW_WORDS + 1] = word_at(high + 32);
    }
    if (F::HIGH == 2) {
        raw[F::LOW_WORDS + 2] = word_at(high + 64);
        raw[F::LOW_WORDS + 3] = word_at(high + 96);
    }
}

DEVICE u32 levels(u32 q) {
    u32 s = q & 0x07070707u;
    s = s | s >> 4;
    s = (s & 0xffu) | (s >> 8 & 0xff00u); // four selectors of four bits
    u32 low = __byte_perm(LEVELS_0, LEVELS_1, s), high = __byte_perm(LEVELS_2, LEVELS_3, s);
    u32 mask = (q >> 3 & 0x01010101u) * 0xffu;
    return (low & ~mask) | (high & mask);
}

// Four quants to a word, in the order of `dot32`.
template <class F> DEVICE void unpack(u32 a[4], const u32 raw[], int t) {
    if (F::LOW == 8) {
        for (int i = 0; i < 4; i++) a[i] = raw[i];
        return;
    }
    if (F::LOW == 4) {
        a[0] = raw[0] & 0x0f0f0f0fu;
        a[1] = raw[1] & 0x0f0f0f0fu;
        a[2] = raw[0] >> 4 & 0x0f0f0f0fu;
        a[3] = raw[1] >> 4 & 0x0f0f0f0fu;
    } else {
        for (int i = 0; i < 4; i++) a[i] = raw[i] >> (2 * t) & 0x03030303u;
    }
    if (F::HIGH == 1) {
        u32 h = raw[F::LOW_WORDS] >> t, h8 = raw[F::LOW_WORDS + 1] >> t;
        a[0] |= (h & 0x01010101u) << F::LOW;
        a[1] |= (h8 & 0x01010101u) << F::LOW;
        a[2] |= (h >> 4 & 0x01010101u) << F::LOW;
        a[3] |= (h8 >> 4 & 0x01010101u) << F::LOW;
    }
    if (F::HIGH == 2) {
        for (int i = 0; i < 4; i++) a[i] |= (raw[F::LOW_WORDS + i] >> (2 * t) & 0x03030303u) << F::LOW;
    }
    if (F::LEVELS) {
        for (int i = 0; i < 4; i++) a[i] = levels(a[i]);
    }
}

// Quants 4 g .. 4 g + 4 of a row whose words of a step are `w`.
template <class F> DEVICE u32 group_of(const u32 w[], int g) {
    u32 q;
    if (F::LOW == 8) q = w[g];
    else if (F::LOW == 4) q = w[g % 4] >> (4 * (g / 4)) & 0x0f0f0f0fu;
    else q = w[g / 4] >> (2 * (g % 4)) & 0x03030303u;
    if (F::HIGH == 1) q |= (w[F::LOW] >> g & 0x01010101u) << F::LOW;
    if (F::HIGH == 2) q |= (w[F::LOW + g / 4] >> (2 * (g % 4)) & 0x03030303u) << F::LOW;
    return F::LEVELS ? levels(q) : q;
}

#endif
