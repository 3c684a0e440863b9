/* np_shared<T>: a pointer to the block's shared memory that checks what is done through it.
 *
 * It behaves like T *: [], *, + and -, comparison, and goes over into np_shared<const T>. What p[i] gives is not a T
 * but a place, so that reads and writes can be told apart; it turns into a T where one is wanted. So write `float4 v =
 * p[i]`, not `auto v` and not `p[i].x`; `p + i` rather than `&p[i]`. */
#ifndef NP_SIMT_SHARED_H
#define NP_SIMT_SHARED_H

#include "shadow.h"

#include <cstring>
#include <type_traits>

template <class T> class np_shared;

namespace simt {

template <class T> inline T load(const unsigned char *p) {
  static_assert(sizeof(T) % CELL == 0, "shared memory is read in units of two bytes");
  check_read(p, sizeof(T), alignof(T));
  T value;
  std::memcpy(&value, p, sizeof value);
  return value;
}
template <class T> inline void store(unsigned char *p, const T &value) {
  static_assert(sizeof(T) % CELL == 0, "shared memory is written in units of two bytes");
  check_write(p, sizeof(T), alignof(T));
  std::memcpy(p, &value, sizeof value);
}

/* p[i] */
template <class T> class spot {
  unsigned char *p;

public:
  explicit spot(unsigned char *p_) : p(p_) {}
  spot(const spot &) = default;
  operator T() const { return load<T>(p); }
  const spot &operator=(const T &value) const { return store(p, value), *this; }
  const spot &operator=(const spot &other) const { return *this = static_cast<T>(other); }
  const spot &operator+=(T value) const { return *this = static_cast<T>(static_cast<T>(*this) + value); }
  const spot &operator-=(T value) const { return *this = static_cast<T>(static_cast<T>(*this) - value); }
  const spot &operator*=(T value) const { return *this = static_cast<T>(static_cast<T>(*this) * value); }
  const spot &operator/=(T value) const { return *this = static_cast<T>(static_cast<T>(*this) / value); }
  np_shared<T> operator&() const;
};

} // namespace simt

template <class T> class np_shared {
  using plain = std::remove_const_t<T>;
  using at = std::conditional_t<std::is_const_v<T>, plain, simt::spot<plain>>; /* what [] gives */
  unsigned char *p;

public:
  np_shared() = default;
  np_shared(std::nullptr_t) : p(nullptr) {}
  explicit np_shared(unsigned char *p_) : p(p_) {}
  template <class V, class = std::enable_if_t<std::is_same_v<const V, T>>>
  np_shared(np_shared<V> other) : p(other.raw()) {}

  unsigned char *raw() const { return p; }
  template <class I> at operator[](I i) const {
    unsigned char *q = p + static_cast<ptrdiff_t>(i) * static_cast<ptrdiff_t>(sizeof(T));
    if constexpr (std::is_const_v<T>) return simt::load<plain>(q);
    else return at(q);
  }
  at operator*() const { return (*this)[0]; }

  template <class I, class = std::enable_if_t<std::is_integral_v<I>>> np_shared operator+(I n) const {
    return np_shared(p + static_cast<ptrdiff_t>(n) * static_cast<ptrdiff_t>(sizeof(T)));
  }
  template <class I, class = std::enable_if_t<std::is_integral_v<I>>> np_shared operator-(I n) const {
    return *this + -static_cast<ptrdiff_t>(n);
  }
  template <class I> np_shared &operator+=(I n) { return *this = *this + n; }
  template <class I> np_shared &operator-=(I n) { return *this = *this - n; }
  np_shared &operator++() { return *this += 1; }
  ptrdiff_t operator-(np_shared other) const { return (p - other.p) / static_cast<ptrdiff_t>(sizeof(T)); }
  bool operator==(np_shared other) const { return p == other.p; }
  bool operator!=(np_shared other) const { return p != other.p; }
  bool operator<(np_shared other) const { return p < other.p; }
};

template <class T> inline np_shared<T> simt::spot<T>::operator&() const { return np_shared<T>(p); }

template <class T> inline np_shared<T> np_shared_at(size_t offset) { return np_shared<T>(simt::here.memory + offset); }
template <class U, class T> inline np_shared<U> np_shared_as(np_shared<T> p) { return np_shared<U>(p.raw()); }
/* The byte's number in shared memory. */
template <class T> inline uint32_t np_shared_address(np_shared<T> p) {
  return static_cast<uint32_t>(p.raw() - simt::here.memory);
}

#endif
