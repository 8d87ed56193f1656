// Reads a matrix and rows from standard input and writes their products to standard output, for
// builds that Python cannot load; test_neon.py compares them with `ref`. Standard error gets the
// name of the best build for this processor.
#include <cstdio>

#include "../../heddle/kernels/native/cpu.cpp"

int main() {
  struct { int32_t rows, cols, kind, num_rows; } head;
  if (std::fread(&head, sizeof head, 1, stdin) != 1) return 1;
  Matrix matrix{head.rows, head.cols, head.kind, 0, nullptr, nullptr};
  std::vector<uint8_t> data((size_t)matrix.panels() * matrix.groups() *
                            Matrix::group_bytes(matrix.kind));
  std::vector<float> x((size_t)head.num_rows * head.cols), out((size_t)head.num_rows * head.rows);
  if (std::fread(data.data(), 1, data.size(), stdin) != data.size()) return 1;
  if (std::fread(x.data(), sizeof(float), x.size(), stdin) != x.size()) return 1;
  matrix.data = data.data();
  Pool* pool = heddle_pool(2);
  heddle_product(pool, &matrix, x.data(), head.num_rows, out.data());
  heddle_pool_free(pool);
  std::fwrite(out.data(), sizeof(float), out.size(), stdout);
  std::fputs(heddle_best(), stderr);
  return 0;
}
