# Sourced: freed memory stays with its process, in large pages. Else glibc hands a step's logits of 49,152 tokens, 200 MB each,
# back to the system, which pages them in anew: README.md says how long that takes. Other C libraries do not read this.
export MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=1000000000000 GLIBC_TUNABLES=glibc.malloc.hugetlb=1
