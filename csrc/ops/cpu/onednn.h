/* One face for oneDNN 2 and 3, which describe memory and products differently: 2 in structs that belong to the caller,
 * 3 in objects that it makes and destroys. Names are those of oneDNN 3 where 2 has a call of the same arguments. */
#ifndef NP_OPS_CPU_ONEDNN_H
#define NP_OPS_CPU_ONEDNN_H

#include <oneapi/dnnl/dnnl.h>

#if DNNL_VERSION_MAJOR >= 3

typedef dnnl_memory_desc_t np_layout;           /* begins as {0}, ends by np_layout_clear */
typedef const_dnnl_memory_desc_t np_layout_ref; /* one that another owns */

static inline np_layout_ref np_layout_of(const np_layout *layout) { return *layout; }
static inline void np_layout_clear(np_layout *layout) {
  if (*layout) dnnl_memory_desc_destroy(*layout);
  *layout = NULL;
}
/* c = a·b (+ bias, which may be NULL). */
static inline dnnl_status_t np_product_describe(dnnl_primitive_desc_t *out, dnnl_engine_t engine, const np_layout *a,
                                                const np_layout *b, const np_layout *bias, const np_layout *c,
                                                dnnl_primitive_attr_t attr) {
  return dnnl_matmul_primitive_desc_create(out, engine, *a, *b, bias ? *bias : NULL, *c, attr);
}
/* c += what the product gives. */
static inline dnnl_status_t np_post_sum(dnnl_post_ops_t post) {
  return dnnl_post_ops_append_sum(post, 1.0f, 0, dnnl_data_type_undef);
}

#else

typedef dnnl_memory_desc_t np_layout;
typedef const dnnl_memory_desc_t *np_layout_ref;

#define dnnl_memory_desc_create_with_strides dnnl_memory_desc_init_by_strides
#define dnnl_memory_desc_create_with_tag     dnnl_memory_desc_init_by_tag
static inline np_layout_ref np_layout_of(const np_layout *layout) { return layout; }
static inline void np_layout_clear(np_layout *layout) { (void)layout; }
static inline dnnl_status_t np_product_describe(dnnl_primitive_desc_t *out, dnnl_engine_t engine, const np_layout *a,
                                                const np_layout *b, const np_layout *bias, const np_layout *c,
                                                dnnl_primitive_attr_t attr) {
  dnnl_matmul_desc_t desc;
  dnnl_status_t status = dnnl_matmul_desc_init(&desc, a, b, bias, c);
  return status == dnnl_success ? dnnl_primitive_desc_create(out, &desc, attr, engine, NULL) : status;
}
static inline dnnl_status_t np_post_sum(dnnl_post_ops_t post) { return dnnl_post_ops_append_sum(post, 1.0f); }

#endif
#endif
