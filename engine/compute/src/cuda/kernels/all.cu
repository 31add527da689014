// Everything, as one module.
#include "product.cu"
#include "columns.cu"
#include "rows.cu"
#include "attend.cu"
#include "prefill.cu"
