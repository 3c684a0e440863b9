/* What a model believes follows: an image, its first patches given, the rest predicted, as a picture. */
#ifndef NP_PROBE_COMPLETE_H
#define NP_PROBE_COMPLETE_H

#include "image/image.h"
#include "model/model.h"
#include "util/status.h"

#include <stdbool.h>

/* Draw three panels side by side — the `prefix` patches given (the others grey), those with the predicted ones behind
 * them, the true image — each pixel repeated scale × scale times, and `scale`·2 white columns between panels. So out is
 * H·scale × (3·W + 4)·scale.
 *
 * The model predicts patches standardised by their own mean and variance, which a continuation cannot know: they are
 * un-standardised with the TRUE patch's. So the brightness and contrast of a predicted patch are given; what is
 * predicted is its content. rollout false: each patch is predicted from the true ones before it. true: from the
 * predicted ones (one forward pass a patch).
 *
 * The model needs a pixel head; `image` must be H × W × C of its recipe; 1 <= prefix <= N-1, scale 1..64, else
 * NP_ERR_ARGUMENT. out->pixels is allocated. */
np_status np_complete_picture(np_model *model, const np_image *image, int prefix, bool rollout, int scale,
                              np_image *out);

#endif
