"""wasmtime's C API, the part that we use, through ctypes.

The Python package `wasmtime` brings the shared library; its own Python layer is not imported, because building its few
thousand ctypes types takes 5 MB and 150 ms in the zygote, and its wrappers cost more than a request does. Pointers are
plain `c_void_p` integers here; who owns what is said in `engine.py`. Header: wasmtime/crates/c-api/include, version 50.
"""

from __future__ import annotations

import ctypes
import os
import sys
from ctypes import (
    CFUNCTYPE,
    POINTER,
    Structure,
    Union,
    c_bool,
    c_char_p,
    c_int,
    c_int64,
    c_size_t,
    c_uint8,
    c_uint32,
    c_uint64,
    c_void_p,
)


class ByteVec(Structure):
    """wasm_byte_vec_t, also wasm_name_t and wasm_message_t."""

    _fields_ = [("size", c_size_t), ("data", c_void_p)]


class Func(Structure):
    _fields_ = [("store_id", c_uint64), ("private", c_void_p)]


class _ExternUnion(Union):
    _fields_ = [("func", Func), ("room", c_uint8 * 24)]  # 24: the largest member, wasmtime_global_t


class Extern(Structure):
    _fields_ = [("kind", c_uint8), ("of", _ExternUnion)]


class Instance(Structure):
    _fields_ = [("store_id", c_uint64), ("private", c_size_t)]


class ComponentInstance(Structure):
    _fields_ = [("store_id", c_uint64), ("private", c_uint32)]


class ComponentFunc(Structure):
    _fields_ = [
        ("store_id", c_uint64),
        ("private1", c_uint32),
        ("private2", c_uint32),
        ("private3", c_void_p),
    ]


class ComponentResult(Structure):
    """wasmtime_component_val_t holding a result: `kind`, then `is_ok` at the start of the union."""

    _fields_ = [("kind", c_uint64), ("is_ok", c_bool), ("value", c_void_p), ("room", c_uint64)]


class Item(Structure):
    """wasmtime_component_item_t and wasmtime_component_valtype_t: a kind, and a pointer to the type."""

    _fields_ = [("kind", c_uint8), ("type", c_void_p), ("room", c_void_p)]


# (data, context, function type, arguments, how many, results, how many) -> an error, or 0
HOST_FUNCTION = CFUNCTYPE(
    c_size_t, c_size_t, c_size_t, c_size_t, c_size_t, c_size_t, c_size_t, c_size_t
)
DESTRUCTOR = CFUNCTYPE(c_size_t, c_size_t, c_size_t, c_uint32)  # (data, context, rep) -> the same


# wasmtime_pooling_allocation_config_<name>_set, by the type of the value
POOL_SETTINGS = {
    "total_core_instances": c_uint32,
    "total_component_instances": c_uint32,
    "total_memories": c_uint32,
    "total_tables": c_uint32,
    "total_stacks": c_uint32,
    "total_gc_heaps": c_uint32,
    "max_memories_per_module": c_uint32,
    "max_tables_per_module": c_uint32,
    "max_core_instance_size": c_size_t,
    "max_component_instance_size": c_size_t,
    "max_memory_size": c_size_t,
    "table_elements": c_size_t,
    "linear_memory_keep_resident": c_size_t,
    "table_keep_resident": c_size_t,
}
EXTERN_FUNC = 0

_P = c_void_p
_NTH = (_P, _P, c_size_t, POINTER(_P), POINTER(c_size_t), POINTER(_P))
_SIGNATURES: dict[str, tuple[object, tuple[object, ...]]] = {
    "wasm_byte_vec_new": (None, (POINTER(ByteVec), c_size_t, c_char_p)),
    "wasm_byte_vec_delete": (None, (POINTER(ByteVec),)),
    "wasm_config_new": (_P, ()),
    "wasmtime_config_epoch_interruption_set": (None, (_P, c_bool)),
    "wasmtime_config_parallel_compilation_set": (None, (_P, c_bool)),
    "wasmtime_config_wasm_component_model_set": (None, (_P, c_bool)),
    "wasmtime_config_concurrency_support_set": (None, (_P, c_bool)),
    "wasmtime_config_memory_init_cow_set": (None, (_P, c_bool)),
    "wasmtime_pooling_allocation_config_new": (_P, ()),
    "wasmtime_pooling_allocation_config_delete": (None, (_P,)),
    "wasmtime_pooling_allocation_strategy_set": (None, (_P, _P)),
    "wasm_engine_new_with_config": (_P, (_P,)),
    "wasmtime_engine_increment_epoch": (None, (_P,)),
    "wasmtime_linker_new": (_P, (_P,)),
    "wasmtime_linker_define_wasi": (_P, (_P,)),
    "wasmtime_linker_instantiate_pre": (_P, (_P, _P, POINTER(_P))),
    "wasmtime_instance_pre_instantiate": (_P, (_P, _P, POINTER(Instance), POINTER(_P))),
    "wasmtime_instance_pre_delete": (None, (_P,)),
    "wasmtime_module_delete": (None, (_P,)),
    "wasmtime_component_delete": (None, (_P,)),
    "wasmtime_component_linker_delete": (None, (_P,)),
    "wasmtime_instance_export_get": (
        c_bool,
        (_P, POINTER(Instance), c_char_p, c_size_t, POINTER(Extern)),
    ),
    "wasmtime_module_new": (_P, (_P, c_char_p, c_size_t, POINTER(_P))),
    "wasmtime_module_serialize": (_P, (_P, POINTER(ByteVec))),
    "wasmtime_module_deserialize_file": (_P, (_P, c_char_p, POINTER(_P))),
    "wasmtime_component_new": (_P, (_P, c_char_p, c_size_t, POINTER(_P))),
    "wasmtime_component_serialize": (_P, (_P, POINTER(ByteVec))),
    "wasmtime_component_deserialize_file": (_P, (_P, c_char_p, POINTER(_P))),
    "wasmtime_component_linker_new": (_P, (_P,)),
    "wasmtime_component_linker_add_wasip2": (_P, (_P,)),
    "wasmtime_component_linker_instantiate": (_P, (_P, _P, _P, POINTER(ComponentInstance))),
    "wasmtime_component_instance_get_export_index": (
        _P,
        (POINTER(ComponentInstance), _P, _P, c_char_p, c_size_t),
    ),
    "wasmtime_component_instance_get_func": (
        c_bool,
        (POINTER(ComponentInstance), _P, _P, POINTER(ComponentFunc)),
    ),
    "wasmtime_component_export_index_delete": (None, (_P,)),
    "wasmtime_component_func_call": (
        _P,
        (POINTER(ComponentFunc), _P, _P, c_size_t, _P, c_size_t),
    ),
    "wasmtime_component_type": (_P, (_P,)),
    "wasmtime_component_type_delete": (None, (_P,)),
    "wasmtime_component_type_import_count": (c_size_t, (_P, _P)),
    "wasmtime_component_type_import_nth": (c_bool, _NTH),
    "wasmtime_component_type_export_count": (c_size_t, (_P, _P)),
    "wasmtime_component_type_export_nth": (c_bool, _NTH),
    "wasmtime_component_instance_type_export_count": (c_size_t, (_P, _P)),
    "wasmtime_component_instance_type_export_nth": (c_bool, _NTH),
    "wasmtime_component_extern_type": (None, (_P, POINTER(Item))),
    "wasmtime_component_extern_delete": (None, (_P,)),
    "wasmtime_component_item_delete": (None, (POINTER(Item),)),
    "wasmtime_component_func_type_result": (c_bool, (_P, POINTER(Item))),
    "wasmtime_component_valtype_delete": (None, (POINTER(Item),)),
    "wasmtime_component_list_type_element": (None, (_P, POINTER(Item))),
    "wasmtime_component_option_type_ty": (None, (_P, POINTER(Item))),
    "wasmtime_component_result_type_ok": (c_bool, (_P, POINTER(Item))),
    "wasmtime_component_result_type_err": (c_bool, (_P, POINTER(Item))),
    "wasmtime_component_tuple_type_types_count": (c_size_t, (_P,)),
    "wasmtime_component_tuple_type_types_nth": (c_bool, (_P, c_size_t, POINTER(Item))),
    "wasmtime_component_record_type_field_count": (c_size_t, (_P,)),
    "wasmtime_component_record_type_field_nth": (
        c_bool,
        (_P, c_size_t, POINTER(_P), POINTER(c_size_t), POINTER(Item)),
    ),
    "wasmtime_component_variant_type_case_count": (c_size_t, (_P,)),
    "wasmtime_component_variant_type_case_nth": (
        c_bool,
        (_P, c_size_t, POINTER(_P), POINTER(c_size_t), POINTER(c_bool), POINTER(Item)),
    ),
    "wasmtime_component_get_export_index": (_P, (_P, _P, c_char_p, c_size_t)),
    "wasmtime_component_resource_type_new_host": (_P, (c_uint32,)),
    "wasmtime_component_resource_type_delete": (None, (_P,)),
    "wasmtime_component_resource_any_to_host": (_P, (_P, _P, POINTER(_P))),
    "wasmtime_component_resource_host_new": (_P, (c_bool, c_uint32, c_uint32)),
    "wasmtime_component_resource_host_rep": (c_uint32, (_P,)),
    "wasmtime_component_resource_host_type": (c_uint32, (_P,)),
    "wasmtime_component_resource_host_owned": (c_bool, (_P,)),
    "wasmtime_component_resource_host_to_any": (_P, (_P, _P, POINTER(_P))),
    "wasmtime_component_resource_host_delete": (None, (_P,)),
    "wasmtime_component_val_new": (_P, (_P,)),
    "wasmtime_component_val_delete": (None, (_P,)),
    "wasmtime_component_vallist_new_uninit": (None, (_P, c_size_t)),
    "wasmtime_component_valtuple_new_uninit": (None, (_P, c_size_t)),
    "wasmtime_component_valrecord_new_uninit": (None, (_P, c_size_t)),
    "wasmtime_component_valflags_new_uninit": (None, (_P, c_size_t)),
    "wasmtime_component_linker_define_unknown_imports_as_traps": (_P, (_P, _P)),
    "wasmtime_component_linker_root": (_P, (_P,)),
    "wasmtime_component_linker_instance_add_instance": (
        _P,
        (_P, c_char_p, c_size_t, POINTER(_P)),
    ),
    "wasmtime_component_linker_instance_add_func": (
        _P,
        (_P, c_char_p, c_size_t, HOST_FUNCTION, c_size_t, _P),
    ),
    "wasmtime_component_linker_instance_add_resource": (
        _P,
        (_P, c_char_p, c_size_t, _P, DESTRUCTOR, c_size_t, _P),
    ),
    "wasmtime_component_linker_instance_delete": (None, (_P,)),
    "wasmtime_error_new": (_P, (c_char_p,)),
    "wasmtime_store_new": (_P, (_P, _P, _P)),
    "wasmtime_store_delete": (None, (_P,)),
    "wasmtime_store_context": (_P, (_P,)),
    "wasmtime_store_limiter": (None, (_P, c_int64, c_int64, c_int64, c_int64, c_int64)),
    "wasmtime_context_set_wasi": (_P, (_P, _P)),
    "wasmtime_context_set_epoch_deadline": (None, (_P, c_uint64)),
    "wasmtime_func_call": (_P, (_P, POINTER(Func), _P, c_size_t, _P, c_size_t, POINTER(_P))),
    "wasmtime_error_message": (None, (_P, POINTER(ByteVec))),
    "wasmtime_error_exit_status": (c_bool, (_P, POINTER(c_int))),
    "wasmtime_error_delete": (None, (_P,)),
    "wasm_trap_message": (None, (_P, POINTER(ByteVec))),
    "wasm_trap_delete": (None, (_P,)),
    "wasi_config_new": (_P, ()),
    "wasi_config_delete": (None, (_P,)),
    "wasi_config_set_argv": (c_bool, (_P, c_size_t, POINTER(c_char_p))),
    "wasi_config_set_env": (c_bool, (_P, c_size_t, POINTER(c_char_p), POINTER(c_char_p))),
    "wasi_config_set_stdin_bytes": (None, (_P, POINTER(ByteVec))),
    "wasi_config_set_stdout_file": (c_bool, (_P, c_char_p)),
    "wasi_config_inherit_stdin": (None, (_P,)),
    "wasi_config_inherit_stdout": (None, (_P,)),
    "wasi_config_inherit_stderr": (None, (_P,)),
    "wasi_config_inherit_network": (None, (_P,)),
    "wasi_config_allow_ip_name_lookup": (None, (_P, c_bool)),
    "wasi_config_preopen_dir": (c_bool, (_P, c_char_p, c_char_p, c_bool)),
}


# These may take long: guest code runs in them, or files are opened. Other threads go on meanwhile.
_BLOCKING = (
    "wasmtime_instance_pre_instantiate",
    "wasmtime_component_linker_instantiate",
    "wasmtime_func_call",
    "wasmtime_component_func_call",
    "wasmtime_module_new",
    "wasmtime_component_new",
    "wasmtime_store_delete",
)


def load(path: str) -> ctypes.CDLL:
    """The library with the signatures above set. Raises OSError, or AttributeError for another API version.

    Calls that are over in a microsecond keep the interpreter's lock: letting it go costs as much as they do.
    """
    library, slow = ctypes.PyDLL(path), ctypes.CDLL(path)
    for name, (result, arguments) in _SIGNATURES.items():
        if name in _BLOCKING:
            setattr(library, name, getattr(slow, name))
        function = getattr(library, name)
        function.restype = result
        function.argtypes = arguments
    for name, kind in POOL_SETTINGS.items():
        function = getattr(library, f"wasmtime_pooling_allocation_config_{name}_set")
        function.restype, function.argtypes = None, (_P, kind)
    return library


def library_path() -> str:
    """Where the installed `wasmtime` distribution keeps its shared library. Raises ModuleNotFoundError."""
    from importlib.util import find_spec

    spec = find_spec("wasmtime")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("the Python package wasmtime is not installed", name="wasmtime")
    machine = {"arm64": "aarch64"}.get(os.uname().machine, os.uname().machine)
    return os.path.join(
        os.path.dirname(spec.origin), f"{sys.platform}-{machine}", "_libwasmtime.so"
    )


def version() -> str:
    """Version of the wasmtime distribution, "50.0.1"."""
    from importlib.metadata import version as distribution_version

    return distribution_version("wasmtime")
