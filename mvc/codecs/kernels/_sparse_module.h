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
    Py_buffer *const buffers[] = {&target, &base, &positions, &deltas};
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
    release(buffers, 4);
    return n ? PyLong_FromSsize_t(count == SIZE_MAX ? -1 : (Py_ssize_t)count) : NULL;
}

/* 1 if `view` holds `count` aligned numbers of 32 bits. */
static int numbers_fit(const Py_buffer *view, size_t count)
{
    return (uint64_t)view->len == 4 * (uint64_t)count && (uintptr_t)view->buf % 4 == 0;
}

static int ascend(const uint32_t *positions, size_t count, size_t n)
{
    for (size_t k = 0; k < count; k++)
        if (positions[k] >= n || (k && positions[k] <= positions[k - 1]))
            return 0;
    return 1;
}

PyDoc_STRVAR(exponent_doc, "exponent(base, number, positions, step, above)\n--\n\nSee reference.exponent.");

static PyObject *exponent(PyObject *Py_UNUSED(module), PyObject *args)
{
    Py_buffer base, positions;
    Py_buffer *const buffers[] = {&base, &positions};
    number_t number;
    Py_ssize_t step, above;
    int found = 0;
    if (!PyArg_ParseTuple(args, "y*(iii)y*nn:exponent", &base, &number.word_bytes, &number.exponent_bits,
                          &number.mantissa_bits, &positions, &step, &above))
        return NULL;
    size_t n = frame_check(number, base.len, PY_SSIZE_T_MAX, 1, 0);
    const size_t count = (size_t)positions.len / 4;
    if (n && (!number.exponent_bits || !numbers_fit(&positions, count) || step < 1 || above < 0 ||
              (size_t)above >= count || (size_t)above > (count - 1) / (size_t)step ||
              largest_position(positions.buf, count) >= n)) {
        fail("a position lies beyond the frame, or fewer words are looked at");
        n = 0;
    }
    if (n) {
        Py_BEGIN_ALLOW_THREADS
        FOR_WIDTH(number.word_bytes, found = exponent_,
                  (base.buf, number, positions.buf, count, (size_t)step, (size_t)above));
        Py_END_ALLOW_THREADS
    }
    release(buffers, 2);
    return n ? PyLong_FromLong(found) : NULL;
}

PyDoc_STRVAR(gaps_doc,
             "gaps(base, number, top, positions, deltas, tally, gaps, ordered)\n--\n\nSee reference.gaps.");

static PyObject *gaps(PyObject *Py_UNUSED(module), PyObject *args)
{
    Py_buffer base, positions, deltas, tally, found, ordered;
    Py_buffer *const buffers[] = {&base, &positions, &deltas, &tally, &found, &ordered};
    number_t number;
    int top;
    if (!PyArg_ParseTuple(args, "y*(iii)iy*y*w*w*w*:gaps", &base, &number.word_bytes, &number.exponent_bits,
                          &number.mantissa_bits, &top, &positions, &deltas, &tally, &found, &ordered))
        return NULL;
    size_t n = frame_check(number, base.len, PY_SSIZE_T_MAX, 1, 0);
    const size_t count = (size_t)positions.len / 4;
    if (n && (top < 0 || top > MAX_EXPONENT || !numbers_fit(&positions, count) || !numbers_fit(&found, count) ||
              !numbers_fit(&tally, 2 * CLASSES) || ordered.len != deltas.len ||
              (uint64_t)deltas.len != (uint64_t)count * (uint64_t)number.word_bytes ||
              !ascend(positions.buf, count, n))) {
        fail("positions, deltas and gaps differ in number, or a value is out of range");
        n = 0;
    }
    if (n) {
        Py_BEGIN_ALLOW_THREADS
        FOR_WIDTH(number.word_bytes, gaps_,
                  (base.buf, n, number, top, positions.buf, deltas.buf, count, tally.buf,
                   (uint32_t *)tally.buf + CLASSES, found.buf, ordered.buf));
        Py_END_ALLOW_THREADS
    }
    release(buffers, 6);
    return n ? Py_NewRef(Py_None) : NULL;
}

PyDoc_STRVAR(locate_doc, "locate(base, number, top, counts, gaps, positions)\n--\n\nSee reference.locate.");

static PyObject *locate(PyObject *Py_UNUSED(module), PyObject *args)
{
    Py_buffer base, counts, lengths, positions;
    Py_buffer *const buffers[] = {&base, &counts, &lengths, &positions};
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
    release(buffers, 4);
    return n ? PyBool_FromLong(complete) : NULL;
}

PyDoc_STRVAR(patch_doc, "patch(base, number, positions, deltas, target)\n--\n\nSee reference.patch.");

static PyObject *patch(PyObject *Py_UNUSED(module), PyObject *args)
{
    Py_buffer target, base, positions, deltas;
    Py_buffer *const buffers[] = {&target, &base, &positions, &deltas};
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
    release(buffers, 4);
    return n ? Py_NewRef(Py_None) : NULL;
}

/* Changes class by class: what `pack` and `unpack` check before they touch anything. `places` receives the number of
 * low bits of all gaps, which is where the signs begin. 0, or -1 with an exception set. */
static int packed_check(const Py_buffer *gaps, const Py_buffer *deltas, const Py_buffer *counts,
                        const Py_buffer *shifts, const planes_t *planes, const Py_buffer *bits, uint64_t *places)
{
    const uint64_t count = (uint64_t)planes->view[0].len;
    uint64_t stated = 0;
    *places = 0;
    if (!numbers_fit(counts, CLASSES) || !numbers_fit(shifts, CLASSES))
        return fail("there must be a count and a shift for each class");
    for (int c = 0; c < CLASSES; c++) {
        const uint64_t mine = ((const uint32_t *)counts->buf)[c], shift = ((const uint32_t *)shifts->buf)[c];
        if (shift > MAX_SHIFT)
            return fail("a shift is out of range");
        stated += mine;
        *places += mine * shift;
    }
    if (stated != count || count > MAX_WORDS || !numbers_fit(gaps, count) ||
        (uint64_t)deltas->len != count * (uint64_t)planes->count)
        return fail("counts, gaps, deltas and planes differ in number");
    if ((uint64_t)bits->len != (*places + count + 7) / 8)
        return fail("the bits differ in number from those of gaps and signs");
    return 0;
}

PyDoc_STRVAR(pack_doc, "pack(gaps, deltas, counts, shifts, units, bits, planes)\n--\n\nSee reference.pack.");

static PyObject *pack(PyObject *Py_UNUSED(module), PyObject *args)
{
    Py_buffer gaps, deltas, counts, shifts, units, bits;
    Py_buffer *const buffers[] = {&gaps, &deltas, &counts, &shifts, &units, &bits};
    PyObject *sequence;
    planes_t planes;
    uint64_t places;
    size_t used = SIZE_MAX;
    if (!PyArg_ParseTuple(args, "y*y*y*y*w*w*O:pack", &gaps, &deltas, &counts, &shifts, &units, &bits, &sequence))
        return NULL;
    int good = planes_take(sequence, PyBUF_WRITABLE, &planes) == 0 &&
               packed_check(&gaps, &deltas, &counts, &shifts, &planes, &bits, &places) == 0;
    if (good) {
        Py_BEGIN_ALLOW_THREADS
        stream_t stream = {bits.buf, 0, 0};
        used = pack_gaps(gaps.buf, counts.buf, shifts.buf, units.buf, (size_t)units.len, &stream);
        if (used != SIZE_MAX) {
            FOR_WIDTH(planes.count, pack_values_, (deltas.buf, (size_t)planes.view[0].len, planes.start, &stream));
            memcpy(stream.next, &stream.waiting, (stream.count + 7) / 8);
        }
        Py_END_ALLOW_THREADS
        if (used == SIZE_MAX)
            fail("there is no room for all gap bytes");
    }
    planes_release(&planes);
    release(buffers, 6);
    return used != SIZE_MAX ? PyLong_FromSize_t(used) : NULL;
}

PyDoc_STRVAR(unpack_doc,
             "unpack(units, bits, planes, counts, shifts, words, gaps, deltas)\n--\n\nSee reference.unpack.");

static PyObject *unpack(PyObject *Py_UNUSED(module), PyObject *args)
{
    Py_buffer units, bits, counts, shifts, gaps, deltas;
    Py_buffer *const buffers[] = {&units, &bits, &counts, &shifts, &gaps, &deltas};
    PyObject *sequence;
    Py_ssize_t words;
    planes_t planes;
    uint64_t places;
    int complete = 0;
    if (!PyArg_ParseTuple(args, "y*y*Oy*y*nw*w*:unpack", &units, &bits, &sequence, &counts, &shifts, &words, &gaps,
                          &deltas))
        return NULL;
    int good = planes_take(sequence, PyBUF_SIMPLE, &planes) == 0 &&
               packed_check(&gaps, &deltas, &counts, &shifts, &planes, &bits, &places) == 0;
    if (good && (words < 1 || (size_t)words > MAX_WORDS)) {
        fail("a frame has 1 to 2^24 whole words");
        good = 0;
    }
    if (good) {
        Py_BEGIN_ALLOW_THREADS
        complete = unpack_gaps(units.buf, (size_t)units.len, bits.buf, (size_t)bits.len, counts.buf, shifts.buf,
                               (size_t)words, gaps.buf);
        if (complete)
            FOR_WIDTH(planes.count, unpack_values_,
                      ((const uint8_t *const *)planes.start, (size_t)planes.view[0].len, bits.buf, (size_t)places,
                       deltas.buf));
        Py_END_ALLOW_THREADS
    }
    planes_release(&planes);
    release(buffers, 6);
    return good ? PyBool_FromLong(complete) : NULL;
}
