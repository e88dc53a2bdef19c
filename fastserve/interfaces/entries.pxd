# Entries of a dict by their place: of messages, scopes and environs, which have few keys, and nearly always the same ones.
#
# Called by: asgi.pyx, asgi_event.pyx, wsgi.pyx. Calls: the headers of the interpreter.
# Rules:     nothing here knows what a key means; whatever is not as expected goes the usual way.
from cpython.ref cimport PyObject

cdef extern from *:
    """
    #ifndef Py_BUILD_CORE
    #define Py_BUILD_CORE 1
    #endif
    /* Where the entries of a dict are is not in the public API: the headers of the interpreter say it, of the versions that were
     * tried. On another one each is looked up. */
    #if PY_VERSION_HEX < 0x030F0000
    #undef _PyGC_FINALIZED /* 3.12 has a macro of that name for others, and a function for itself */
    #include "internal/pycore_dict.h"
    #define FS_KNOWS_DICTS 1
    #else
    #define FS_KNOWS_DICTS 0
    typedef struct { PyObject *me_key, *me_value; } PyDictUnicodeEntry;
    #endif

    /* In order, those that were deleted without a value. NULL: keys that are no str, or it is laid out otherwise. */
    static inline PyDictUnicodeEntry *fs_entries(PyObject *dict, Py_ssize_t *count) {
    #if FS_KNOWS_DICTS
      PyDictKeysObject *keys = ((PyDictObject *)dict)->ma_keys;
      if (((PyDictObject *)dict)->ma_values == NULL && DK_IS_UNICODE(keys)) {
        *count = keys->dk_nentries;
        return DK_UNICODE_ENTRIES(keys);
      }
    #else
      (void)dict;
    #endif
      *count = 0;
      return NULL;
    }

    /* dict.get(key), borrowed; NULL: it is not there, or an error. An interned string is equal to another one only if it is the
     * same object. */
    static PyObject *fs_find(PyObject *dict, PyObject *key) {
      Py_ssize_t count;
      PyDictUnicodeEntry *entry = fs_entries(dict, &count);
      if (entry != NULL && count <= 8 && PyUnicode_CHECK_INTERNED(key)) {
        for (; count > 0; count--, entry++) {
          if (entry->me_key == key) {
            if (entry->me_value != NULL) return entry->me_value;
          } else if (entry->me_key != NULL && !PyUnicode_CHECK_INTERNED(entry->me_key)) {
            return PyDict_GetItemWithError(dict, key);
          }
        }
        return NULL;
      }
      return PyDict_GetItemWithError(dict, key);
    }

    /* dict[key] = value, in a copy that nobody has seen yet and whose entry `place` is likely this key's. */
    static inline int fs_put(PyObject *dict, Py_ssize_t place, PyObject *key, PyObject *value) {
      Py_ssize_t count;
      PyDictUnicodeEntry *entry = fs_entries(dict, &count);
      if (place < count && entry[place].me_key == key && entry[place].me_value != NULL) {
        PyObject *before = entry[place].me_value;
        Py_INCREF(value);
        entry[place].me_value = value;
        Py_DECREF(before);
        return 0;
      }
      return PyDict_SetItem(dict, key, value);
    }

    /* A copy of `model` that was given out: has everybody let go of it, but for whoever keeps it, and is it still the same? */
    static inline int fs_is_back(PyObject *given, PyObject *model) {
      Py_ssize_t count, other_count, i;
      PyDictUnicodeEntry *mine = fs_entries(model, &count), *theirs = fs_entries(given, &other_count);
      if (Py_REFCNT(given) != 1 || mine == NULL || theirs == NULL || count != other_count) return 0;
      for (i = 0; i < count; i++)
        if (mine[i].me_key != theirs[i].me_key || mine[i].me_value != theirs[i].me_value) return 0;
      return 1;
    }
    """
    PyObject *fs_find(object dictionary, str key) except? NULL
    int fs_put(dict dictionary, Py_ssize_t place, str key, object value) except -1
    bint fs_is_back(PyObject *given, dict model)
