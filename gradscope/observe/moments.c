/* Sufficient statistics of many tensors, each read once, and what a step did to samples of them.
 *
 * Plain C without Python's headers: one shared library serves every Python version, loaded with
 * ctypes (kernel.py). Sums run in a fixed number of lanes in a fixed order, so that the result does
 * not depend on the processor's vector width.
 *
 * Largest magnitudes are compared as integers: for IEEE 754 the order of the bits without the sign
 * is that of the magnitudes, with Inf above every number and NaN above Inf.
 */
#include <stdint.h>
#include <string.h>

#define LANES 32
#define BLOCK 8
#define SMALLEST 0x1p-50f /* squares of elements 2^-25 below the largest are still normal numbers */
#define LARGEST 0x1p60f   /* a block of squares stays below the largest float32, 2^128 */

#if defined(__GNUC__) && !defined(__clang__) && defined(__x86_64__) && defined(__linux__) && \
    !defined(NO_CLONES)
#define CLONES __attribute__((target_clones("arch=x86-64-v3", "default")))
#else
#define CLONES
#endif

#if defined(__GNUC__)
#define INLINE static inline __attribute__((always_inline))
#else
#define INLINE static inline
#endif

#if defined(_WIN32)
#define EXPORT __declspec(dllexport)
#else
#define EXPORT __attribute__((visibility("default")))
#endif

enum { FLOAT32 = 0, FLOAT64 = 1, BFLOAT16 = 2, FLOAT16 = 3 };

typedef struct {
  double sum, sum_sq, max_abs;
} Moments;

INLINE Moments together(const double *sum, const double *square, double max_abs) {
  Moments all = {0, 0, max_abs};
  for (int k = 0; k < LANES; k++) {
    all.sum += sum[k];
    all.sum_sq += square[k];
  }
  return all;
}

INLINE float as_float(uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

INLINE uint32_t bits_of(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  return bits;
}

INLINE float load_float32(const void *data, int64_t i) { return ((const float *)data)[i]; }

INLINE float load_float64(const void *data, int64_t i) { return (float)((const double *)data)[i]; }

INLINE float load_bfloat16(const void *data, int64_t i) {
  return as_float((uint32_t)((const uint16_t *)data)[i] << 16);
}

/* The exponent is moved by a multiplication, which gets subnormal numbers right as well. */
INLINE float load_float16(const void *data, int64_t i) {
  uint32_t half = ((const uint16_t *)data)[i];
  uint32_t magnitude = (half & 0x7fff) << 13;
  uint32_t bits = bits_of(as_float(magnitude) * 0x1p112f);
  bits = magnitude >= 0x0f800000u ? magnitude | 0x7f800000u : bits;
  return as_float(bits | (half & 0x8000) << 16);
}

INLINE int32_t magnitude_of(float value) { return (int32_t)(bits_of(value) & 0x7fffffffu); }

/* Every element in float64: right for every magnitude, and several times as slow as `pass`. */
INLINE Moments pass_wide(const void *data, int64_t count, float (*load)(const void *, int64_t)) {
  double sum[LANES] = {0}, square[LANES] = {0};
  int32_t top = 0;
  for (int64_t i = 0; i < count; i++) {
    float x = load(data, i);
    sum[i % LANES] += (double)x;
    square[i % LANES] += (double)x * (double)x;
    top = magnitude_of(x) > top ? magnitude_of(x) : top;
  }
  return together(sum, square, (double)as_float((uint32_t)top));
}

/* One pass over numbers that float32 holds: blocks of BLOCK elements a lane are summed in float32,
 * the blocks in float64, so the relative error is at most BLOCK rounding errors of float32. Where
 * squares would overflow or vanish in float32 the tensor is read again. */
INLINE Moments pass(const void *data, int64_t count, float (*load)(const void *, int64_t)) {
  double sum[LANES] = {0}, square[LANES] = {0};
  int32_t largest[LANES] = {0};
  int64_t i = 0;
  for (; i + LANES * BLOCK <= count; i += LANES * BLOCK) {
    float part[LANES] = {0}, part_square[LANES] = {0};
    for (int j = 0; j < BLOCK; j++)
      for (int k = 0; k < LANES; k++) {
        float x = load(data, i + j * LANES + k);
        int32_t magnitude = magnitude_of(x);
        part[k] += x;
        part_square[k] += x * x;
        largest[k] = magnitude > largest[k] ? magnitude : largest[k];
      }
    for (int k = 0; k < LANES; k++) {
      sum[k] += (double)part[k];
      square[k] += (double)part_square[k];
    }
  }
  int32_t top = 0;
  for (int k = 0; k < LANES; k++) top = largest[k] > top ? largest[k] : top;
  for (; i < count; i++) {
    float x = load(data, i);
    sum[i % LANES] += (double)x;
    square[i % LANES] += (double)x * (double)x;
    top = magnitude_of(x) > top ? magnitude_of(x) : top;
  }
  float max_abs = as_float((uint32_t)top);
  if (max_abs != 0 && (max_abs < SMALLEST || max_abs > LARGEST)) return pass_wide(data, count, load);
  return together(sum, square, (double)max_abs);
}

CLONES static Moments pass_float32(const void *data, int64_t count) {
  return pass(data, count, load_float32);
}

CLONES static Moments pass_bfloat16(const void *data, int64_t count) {
  return pass(data, count, load_bfloat16);
}

CLONES static Moments pass_float16(const void *data, int64_t count) {
  return pass(data, count, load_float16);
}

CLONES static Moments pass_float64(const void *data, int64_t count) {
  const double *x = data;
  double sum[LANES] = {0}, square[LANES] = {0}, max_abs;
  int64_t largest[LANES] = {0}, top = 0;
  for (int64_t i = 0; i < count; i += LANES) {
    int64_t lanes = count - i < LANES ? count - i : LANES;
    for (int64_t k = 0; k < lanes; k++) {
      int64_t magnitude;
      memcpy(&magnitude, &x[i + k], sizeof magnitude);
      magnitude &= INT64_MAX;
      sum[k] += x[i + k];
      square[k] += x[i + k] * x[i + k];
      largest[k] = magnitude > largest[k] ? magnitude : largest[k];
    }
  }
  for (int k = 0; k < LANES; k++) top = largest[k] > top ? largest[k] : top;
  memcpy(&max_abs, &top, sizeof top);
  return together(sum, square, max_abs);
}

#define EXPONENTS 256
#define ZERO EXPONENTS

/* Count every stride-th element by its biased exponent, exact zeros apart. */
INLINE void count_exponents(const void *data, int64_t count, int64_t stride, uint32_t *found,
                            float (*load)(const void *, int64_t)) {
  for (int64_t i = 0; i < count; i += stride) {
    uint32_t magnitude = (uint32_t)magnitude_of(load(data, i));
    found[magnitude ? magnitude >> 23 : ZERO]++;
  }
}

/* The bin of a biased exponent, -1 for NaN and Inf. Biased exponent 0 is a subnormal number, below
 * the first edge, 2^-126. Beyond edges[1] the edges are two apart. */
static int bin_of(int biased, const int32_t *edges, int32_t edge_count) {
  int exponent = biased - 127;
  if (biased == EXPONENTS - 1) return -1;
  if (exponent < edges[0]) return 0;
  if (exponent < edges[1]) return 1;
  if (exponent >= edges[edge_count - 1]) return edge_count;
  return (exponent - edges[1]) / 2 + 2;
}

static void sample(const void *data, int kind, int64_t count, int64_t stride, int32_t *zeros,
                   uint16_t *bins, const int32_t *bin) {
  uint32_t found[EXPONENTS + 1] = {0};
  switch (kind) {
    case FLOAT64: count_exponents(data, count, stride, found, load_float64); break;
    case BFLOAT16: count_exponents(data, count, stride, found, load_bfloat16); break;
    case FLOAT16: count_exponents(data, count, stride, found, load_float16); break;
    default: count_exponents(data, count, stride, found, load_float32);
  }
  *zeros = (int32_t)found[ZERO];
  if (bins)
    for (int biased = 0; biased < EXPONENTS - 1; biased++)
      bins[bin[biased]] = (uint16_t)(bins[bin[biased]] + found[biased]);
}

/* Statistics of `total` dense tensors.
 *
 * data, counts, kinds, strides: address, elements, number format and sample stride of each.
 * numbers: [total, 3] for sum, sum of squares, largest magnitude.
 * zeros: [total]. bins: [total, edge_count + 1], zeroed by the caller, or NULL. */
EXPORT void gradscope_moments(int64_t total, const int64_t *data, const int64_t *counts,
                              const int32_t *kinds, const int64_t *strides, double *numbers,
                              int32_t *zeros, uint16_t *bins, const int32_t *edges,
                              int32_t edge_count) {
  int32_t bin[EXPONENTS];
  for (int biased = 0; biased < EXPONENTS; biased++)
    bin[biased] = bin_of(biased, edges, edge_count);
  for (int64_t t = 0; t < total; t++) {
    const void *at = (const void *)(intptr_t)data[t];
    Moments read;
    switch (kinds[t]) {
      case FLOAT64: read = pass_float64(at, counts[t]); break;
      case BFLOAT16: read = pass_bfloat16(at, counts[t]); break;
      case FLOAT16: read = pass_float16(at, counts[t]); break;
      default: read = pass_float32(at, counts[t]);
    }
    numbers[3 * t] = read.sum;
    numbers[3 * t + 1] = read.sum_sq;
    numbers[3 * t + 2] = read.max_abs;
    sample(at, kinds[t], counts[t], strides[t], &zeros[t],
           bins ? bins + t * (edge_count + 1) : 0, bin);
  }
}

/* ------------------------------------------------------------------ updates */

#define BUCKETS 64
#define SUMS 6

#define GATHER(load) \
  for (int64_t k = 0; k < many; k++) out[k] = load(data, (first + k) * stride)

/* Elements first, first + 1, ... of the sample of one tensor; NaN where there is no tensor. */
INLINE void gather(const void *data, int kind, int64_t stride, int64_t first, int64_t many,
                   float *out) {
  if (!data) {
    for (int64_t k = 0; k < many; k++) out[k] = as_float(0x7fc00000u);
    return;
  }
  switch (kind) {
    case FLOAT64: GATHER(load_float64); break;
    case BFLOAT16: GATHER(load_bfloat16); break;
    case FLOAT16: GATHER(load_float16); break;
    default: GATHER(load_float32);
  }
}

/* Samples of `total` tensors, one behind the other.
 *
 * data, kinds, strides, starts, lengths: address (0: none), number format, stride, place in `out`
 * and length of the sample of each. */
EXPORT void gradscope_samples(int64_t total, const int64_t *data, const int32_t *kinds,
                              const int64_t *strides, const int64_t *starts,
                              const int64_t *lengths, float *out) {
  for (int64_t t = 0; t < total; t++)
    gather((const void *)(intptr_t)data[t], kinds[t], strides[t], 0, lengths[t], out + starts[t]);
}

typedef struct {
  double sum[SUMS][BUCKETS];
  double sketch[2][BUCKETS];
} Lanes;

/* `many` elements, at most BUCKETS, the first of which belongs to bucket 0. */
INLINE void compare(Lanes *to, const float *now, const float *before, const float *gradient,
                    const float *origin, const double *signs, int64_t many) {
  for (int64_t k = 0; k < many; k++) {
    double old = (double)before[k], slope = (double)gradient[k];
    double delta = (double)now[k] - old, away = (double)now[k] - (double)origin[k];
    to->sum[0][k] += now[k] != before[k] ? 1.0 : 0.0;
    to->sum[1][k] += old * old;
    to->sum[2][k] += delta * delta;
    to->sum[3][k] += slope * slope;
    to->sum[4][k] -= slope * delta;
    to->sum[5][k] += away * away;
    to->sketch[0][k] += signs[k] * slope;
    to->sketch[1][k] += signs[k] * delta;
  }
}

CLONES static void compare_all(Lanes *to, const void *data, int kind, int64_t stride,
                               int64_t length, const float *before, const float *gradient,
                               const float *origin, const double *signs, int64_t sign_count) {
  float now[BUCKETS];
  int64_t i = 0;
  for (; i + BUCKETS <= length; i += BUCKETS) {
    gather(data, kind, stride, i, BUCKETS, now);
    compare(to, now, before + i, gradient + i, origin + i, signs + i % sign_count, BUCKETS);
  }
  gather(data, kind, stride, i, length - i, now);
  compare(to, now, before + i, gradient + i, origin + i, signs + i % sign_count, length - i);
}

/* What a step did to the samples of `total` tensors.
 *
 * data, kinds, strides, starts, lengths: as above, of the tensors after the step.
 * before, gradient, origin: samples of the values before it, of the gradients, and from the start.
 * signs: of the count sketch, repeated every `sign_count` elements, a multiple of BUCKETS.
 * sums: [total, SUMS] for elements changed, sums of before^2, delta^2, gradient^2,
 * -gradient * delta, (now - origin)^2. sketches: [total, 2, BUCKETS] of gradient and delta. */
EXPORT void gradscope_updates(int64_t total, const int64_t *data, const int32_t *kinds,
                              const int64_t *strides, const int64_t *starts,
                              const int64_t *lengths, const float *before, const float *gradient,
                              const float *origin, const double *signs, int64_t sign_count,
                              double *sums, double *sketches) {
  for (int64_t t = 0; t < total; t++) {
    Lanes lanes;
    memset(&lanes, 0, sizeof lanes);
    compare_all(&lanes, (const void *)(intptr_t)data[t], kinds[t], strides[t], lengths[t],
                before + starts[t], gradient + starts[t], origin + starts[t], signs, sign_count);
    for (int n = 0; n < SUMS; n++) {
      double sum = 0;
      for (int k = 0; k < BUCKETS; k++) sum += lanes.sum[n][k];
      sums[SUMS * t + n] = sum;
    }
    memcpy(sketches + 2 * BUCKETS * t, lanes.sketch, sizeof lanes.sketch);
  }
}
