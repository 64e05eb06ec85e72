cdef int settle() except -1
