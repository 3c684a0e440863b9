/* Comparing arrays with a case's expectation, and reading numbers of case.json. */
#ifndef NP_TESTS_GOLDEN_COMPARE_H
#define NP_TESTS_GOLDEN_COMPARE_H

#include "recipe/recipe.h"
#include "util/safetensors.h"

#include <cjson/cJSON.h>
#include <stdbool.h>

/* |got - want| over the tensor, as L2 norms: true when !(> bound · |want|) holds; prints the name and both numbers
 * otherwise. */
bool golden_close(const char *what, const float *got, const np_tensor *want, int64_t offset, int64_t count,
                  double bound);
bool golden_close_number(const char *what, double got, double want, double bound);

/* A number of case.json; a missing one fails the case with a line and returns NaN. */
double golden_number(const cJSON *json, const char *key);

/* A file of the case, opened; NULL with a line printed when it cannot be. */
np_safetensors *golden_open(const char *folder, const char *name);
cJSON *golden_json(const char *folder);

/* A copy of a float tensor with `count` elements from `offset`; NULL with a line printed when it is not there. free it.
 */
float *golden_floats(const np_safetensors *file, const char *name, int64_t offset, int64_t count);

#endif
