/* Where the time goes: an operator table around another, which marks the device's clock before and after each operation
 * and sums by family.
 *
 *   np_ops_profile(ops, pairs, &profiled);  create a model on `profiled`, run steps;  np_ops_profile_read(profiled,
 * &sums);
 *
 * Marking between operations costs time of its own and forbids recordings (record_begin is NULL here), so a profiled
 * step is slower than the timed one: take shares from it, never the speed of the step. Results are the same bits. */
#ifndef NP_OPS_PROFILE_H
#define NP_OPS_PROFILE_H

#include "ops/ops.h"

typedef enum np_family {
  NP_FAMILY_PRODUCTS,
  NP_FAMILY_ATTENTION_FORWARD,
  NP_FAMILY_ATTENTION_BACKWARD,
  NP_FAMILY_NORMS,
  NP_FAMILY_GELU,
  NP_FAMILY_PIXEL_LOSS,
  NP_FAMILY_ROWS, /* elements, rows, patches, column sums */
  NP_FAMILY_OPTIMISER,
  NP_FAMILY_COPIES, /* to and from the host, and zeroing */
  NP_FAMILY_PROBE,
  NP_FAMILIES
} np_family;

typedef struct np_family_sum {
  double seconds;
  double flops; /* of products and attention as computed, recomputation included; 0 for the others */
  int64_t calls;
} np_family_sum;

/* "products", "attention forward", … */
const char *np_family_name(np_family family);

/* `inner` must outlive it and stays the caller's: destroying the profiled table leaves it open. `pairs`: query-key
 * pairs that the mask of one image allows, in the mean, for the FLOPs of attention with a prefix (without one all N²
 * are). Callers may use marks below NP_PROFILE_MARKS; the rest are its own. */
enum { NP_PROFILE_MARKS = 64 };
np_status np_ops_profile(np_ops *inner, double pairs, np_ops **out);

/* The sums since the last read, which this resets. Waits for the device. */
np_status np_ops_profile_read(np_ops *profiled, np_family_sum sums[NP_FAMILIES]);

#endif
