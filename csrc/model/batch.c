/* A micro-batch on its way to the device, and which of its tokens go through the pixel head. */
#include "model/internal.h"

/* The loss looks at patch k+1 >= S of token k, k <= N-2: tokens max(S, 1) - 1 .. N - 2. */
static int first_loss_token(int32_t prefix) { return prefix > 0 ? prefix - 1 : 0; }

int64_t np_model_targets(const np_recipe_model *config, int count, const int32_t *prefix) {
  int64_t targets = 0;
  int tokens = np_recipe_tokens(config);
  for (int b = 0; b < count; b++)
    if (first_loss_token(prefix[b]) < tokens - 1) targets += tokens - 1 - first_loss_token(prefix[b]);
  return targets;
}

void np_model_settle(np_model *m) {
  int64_t all = (int64_t)m->options.batch * np_model_tokens(m), *rows = &m->options.head_rows;
  if (!m->options.train) m->options.recompute = NP_RECOMPUTE_NONE;
  if (!m->options.train || m->options.all_tokens || *rows < 1 || *rows > all) *rows = all;
  if (!m->options.train || m->options.all_tokens) m->options.step = 0;
  if (!m->options.train || m->options.ranks < 2) m->options.ranks = 1, m->options.rank = 0;
}

/* Indices, into the R rows of the trunk, of the loss tokens; prefix NULL: of every token. Uploaded to `device`, with -1
 * for the rows that pad them. */
static np_status list_rows(np_model *m, const int32_t *prefix, int32_t *device, np_row_list *list) {
  int tokens = np_model_tokens(m);
  int64_t count = 0;
  for (int b = 0; b < m->count; b++) {
    int first = prefix ? first_loss_token(prefix[b]) : 0, last = prefix ? tokens - 1 : tokens;
    for (int k = first; k < last; k++) m->rows_host[count++] = b * tokens + k;
  }
  const np_row_sizes sizes = np_model_row_sizes(m, m->count);
  *list = (np_row_list){.count = count, .padded = np_row_size(&sizes, count)};
  while (count < list->padded) m->rows_host[count++] = -1;
  return m->ops->upload(m->ops, device, m->rows_host, (size_t)list->padded * sizeof *m->rows_host);
}

np_status np_model_choose_rows(np_model *m, const int32_t *prefix) {
  np_status st = NP_OK;
  m->trim = prefix != NULL;
  NP_TRY(list_rows(m, prefix, m->index, &m->rows));
  if (m->rows.padded > m->options.head_rows) {
    m->loss_ready = false;
    st = np_error(NP_ERR_ARGUMENT, "%lld tokens for the pixel head; this model was made for %lld",
                  (long long)m->rows.padded, (long long)m->options.head_rows);
  }
out:
  return st;
}

void np_model_describe(np_model *m, int count, bool bytes) {
  const np_recipe_model *c = &m->config;
  m->count = count;
  m->pixels = (np_pixels){.u8 = bytes ? m->pixels_u8 : NULL,
                          .f32 = bytes ? NULL : m->pixels_f32,
                          .batch = count,
                          .height = c->image_size[0],
                          .width = c->image_size[1],
                          .channels = c->channels,
                          .patch = c->patch_size};
  for (int i = 0; i < 3; i++) {
    m->pixels.mean[i] = (float)c->pixel_mean[i];
    m->pixels.std[i] = (float)c->pixel_std[i];
  }
}

np_status np_model_feed_nothing(np_model *m, bool bytes) {
  np_status st = NP_OK;
  const np_recipe_model *c = &m->config;
  const int batch = m->options.batch;
  const size_t values = (size_t)batch * (size_t)c->image_size[0] * (size_t)c->image_size[1] * (size_t)c->channels,
               rows = (size_t)m->options.head_rows;
  const float scale = 0;
  np_model_describe(m, batch, bytes);
  m->bidirectional = m->loss_ready = false;
  m->trim = true;
  m->rows = (np_row_list){.padded = m->options.head_rows};
  for (size_t i = 0; i < rows; i++) m->rows_host[i] = -1;
  NP_TRY(m->ops->zero(m->ops, m->pixels_f32, values * (bytes ? sizeof *m->pixels_u8 : sizeof *m->pixels_f32)));
  NP_TRY(m->ops->zero(m->ops, m->prefix, (size_t)batch * sizeof *m->prefix));
  NP_TRY(m->ops->upload(m->ops, m->index, m->rows_host, rows * sizeof *m->rows_host));
  NP_TRY(m->ops->upload(m->ops, m->scale, &scale, sizeof scale));
out:
  return st;
}

np_status np_model_feed(np_model *m, int count, const uint8_t *u8, const float *f32, const int32_t *prefix) {
  np_status st = NP_OK;
  const np_recipe_model *c = &m->config;
  size_t values = (size_t)count * (size_t)c->image_size[0] * (size_t)c->image_size[1] * (size_t)c->channels;
  if (count < 1 || count > m->options.batch)
    return np_error(NP_ERR_ARGUMENT, "a batch of %d images; this model was made for 1 to %d", count, m->options.batch);
  np_model_describe(m, count, u8 != NULL);
  m->bidirectional = prefix == NULL;
  m->trim = false;
  m->loss_ready = prefix != NULL && m->options.head;
  if (u8) NP_TRY(m->ops->upload(m->ops, m->pixels_u8, u8, values));
  else NP_TRY(m->ops->upload(m->ops, m->pixels_f32, f32, values * sizeof *f32));
  if (prefix) {
    NP_TRY(m->ops->upload(m->ops, m->prefix, prefix, (size_t)count * sizeof *prefix));
    if (m->options.head) NP_TRY(np_model_choose_rows(m, m->options.all_tokens ? NULL : prefix));
    if (m->options.all_tokens) NP_TRY(list_rows(m, prefix, m->loss_index, &m->loss_rows));
  }
out:
  return st;
}
