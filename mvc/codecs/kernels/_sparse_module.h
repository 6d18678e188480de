/* The kernels of `sparse-delta` (spec-v1, section 6.7), as Python calls them; included once by _native.c. */

/* Check a frame of `target` and `base` and room for changes; the number of words, or 0 with an exception set. */
static size_t sparse_check(const Py_buffer *target, const Py_buffer *base, number_t number, const Py_buffer *positions,
                           const Py_buffer *deltas)
{
    size_t n = frame_check(number, base->len, PY_SSIZE_T_MAX, 1, 0);
    if (n == 0)
        return 0;
    if (target->len != base->len)
        fail("target and base differ in size");
    else if (positions->len % 4 || (uintptr_t)positions->buf % 4 ||
             deltas->len / number.word_bytes != positions->len / 4 || deltas->len % number.word_bytes)
        fail("positions and deltas differ in number, or are not aligned");
    else
        return n;
    return 0;
}

PyDoc_STRVAR(changes_doc, "changes(target, base, number, positions, deltas)\n--\n\nSee reference.changes.");

static PyObject *changes(PyObject *Py_UNUSED(module), PyObject *args)
{
    Py_buffer target, base, positions, deltas;
    number_t number;
    size_t count = SIZE_MAX;
    if (!PyArg_ParseTuple(args, "y*y*(iii)w*w*:changes", &target, &base, &number.word_bytes, &number.exponent_bits,
                          &number.mantissa_bits, &positions, &deltas))
        return NULL;
    const size_t n = sparse_check(&target, &base, number, &positions, &deltas);
    if (n) {
        const size_t most = (size_t)positions.len / 4;
        Py_BEGIN_ALLOW_THREADS
        FOR_WIDTH(number.word_bytes, count = changes_,
                  (target.buf, base.buf, n, number.exponent_bits > 0, positions.buf, deltas.buf, most));
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&target);
    PyBuffer_Release(&base);
    PyBuffer_Release(&positions);
    PyBuffer_Release(&deltas);
    return n ? PyLong_FromSsize_t(count == SIZE_MAX ? -1 : (Py_ssize_t)count) : NULL;
}

/* 1 if `view` holds `count` aligned numbers of 32 bits. */
static int numbers_fit(const Py_buffer *view, size_t count)
{
    return (uint64_t)view->len == 4 * (uint64_t)count && (uintptr_t)view->buf % 4 == 0;
}

PyDoc_STRVAR(gaps_doc, "gaps(base, number, top, positions, gaps, classes)\n--\n\nSee reference.gaps.");

static int ascend(const uint32_t *positions, size_t count, size_t n)
{
    for (size_t k = 0; k < count; k++)
        if (positions[k] >= n || (k && positions[k] <= positions[k - 1]))
            return 0;
    return 1;
}

static PyObject *gaps(PyObject *Py_UNUSED(module), PyObject *args)
{
    Py_buffer base, positions, found, classes;
    number_t number;
    int top;
    if (!PyArg_ParseTuple(args, "y*(iii)iy*w*w*:gaps", &base, &number.word_bytes, &number.exponent_bits,
                          &number.mantissa_bits, &top, &positions, &found, &classes))
        return NULL;
    size_t n = frame_check(number, base.len, PY_SSIZE_T_MAX, 1, 0);
    const size_t count = (size_t)classes.len;
    if (n && (top < 0 || top > MAX_EXPONENT || !numbers_fit(&positions, count) || !numbers_fit(&found, count) ||
              !ascend(positions.buf, count, n))) {
        fail("positions, gaps and classes differ in number, or a value is out of range");
        n = 0;
    }
    if (n) {
        Py_BEGIN_ALLOW_THREADS
        FOR_WIDTH(number.word_bytes, gaps_,
                  (base.buf, n, number, top, positions.buf, count, found.buf, classes.buf));
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&base);
    PyBuffer_Release(&positions);
    PyBuffer_Release(&found);
    PyBuffer_Release(&classes);
    return n ? Py_NewRef(Py_None) : NULL;
}

PyDoc_STRVAR(locate_doc, "locate(base, number, top, counts, gaps, positions)\n--\n\nSee reference.locate.");

static PyObject *locate(PyObject *Py_UNUSED(module), PyObject *args)
{
    Py_buffer base, counts, lengths, positions;
    number_t number;
    int top, complete = 0;
    if (!PyArg_ParseTuple(args, "y*(iii)iy*y*w*:locate", &base, &number.word_bytes, &number.exponent_bits,
                          &number.mantissa_bits, &top, &counts, &lengths, &positions))
        return NULL;
    size_t n = frame_check(number, base.len, PY_SSIZE_T_MAX, 1, 0);
    const size_t count = (size_t)lengths.len / 4;
    uint64_t stated = 0;
    if (n && numbers_fit(&counts, CLASSES))
        for (int c = 0; c < CLASSES; c++)
            stated += ((const uint32_t *)counts.buf)[c];
    if (n && (top < 0 || top > MAX_EXPONENT || !numbers_fit(&counts, CLASSES) || stated != count ||
              !numbers_fit(&lengths, count) || !numbers_fit(&positions, count))) {
        fail("counts, gaps and positions differ in number, or a value is out of range");
        n = 0;
    }
    if (n) {
        Py_BEGIN_ALLOW_THREADS
        FOR_WIDTH(number.word_bytes, complete = locate_,
                  (base.buf, n, number, top, counts.buf, lengths.buf, positions.buf));
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&base);
    PyBuffer_Release(&counts);
    PyBuffer_Release(&lengths);
    PyBuffer_Release(&positions);
    return n ? PyBool_FromLong(complete) : NULL;
}

PyDoc_STRVAR(patch_doc, "patch(base, number, positions, deltas, target)\n--\n\nSee reference.patch.");

static PyObject *patch(PyObject *Py_UNUSED(module), PyObject *args)
{
    Py_buffer target, base, positions, deltas;
    number_t number;
    if (!PyArg_ParseTuple(args, "y*(iii)y*y*w*:patch", &base, &number.word_bytes, &number.exponent_bits,
                          &number.mantissa_bits, &positions, &deltas, &target))
        return NULL;
    size_t n = sparse_check(&target, &base, number, &positions, &deltas);
    const size_t count = (size_t)positions.len / 4;
    if (n && count && largest_position(positions.buf, count) >= n) {
        fail("a position lies beyond the frame");
        n = 0;
    }
    if (n) {
        Py_BEGIN_ALLOW_THREADS
        FOR_WIDTH(number.word_bytes, patch_,
                  (base.buf, target.buf, n, number.exponent_bits > 0, positions.buf, deltas.buf, count));
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&base);
    PyBuffer_Release(&positions);
    PyBuffer_Release(&deltas);
    PyBuffer_Release(&target);
    return n ? Py_NewRef(Py_None) : NULL;
}
