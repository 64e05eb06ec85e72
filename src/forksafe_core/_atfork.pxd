cdef int run_due_hooks() except -1
