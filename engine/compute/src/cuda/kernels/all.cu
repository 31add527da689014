// Everything, as one module.
#include "product.cu"
#include "rows.cu"
#include "attend.cu"
