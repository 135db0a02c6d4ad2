# Takes the place of llama.cpp's tools/CMakeLists.txt: of its tools the server alone, which goes into the wheel. It opens
# the libraries that the binding opens; what those do not hold is part of it.
find_package(Threads REQUIRED)
llama_add_compile_flags()
set(LLAMA_BUILD_TOOLS OFF) # mtmd's programs
set(BUILD_SHARED_LIBS OFF)
add_subdirectory(ui)
add_subdirectory(mtmd)
add_subdirectory(server)
set_target_properties(llama-server PROPERTIES INSTALL_RPATH "$ORIGIN/../lib" BUILD_WITH_INSTALL_RPATH TRUE)
install(TARGETS llama-server RUNTIME DESTINATION ${SKBUILD_PLATLIB_DIR}/llama_cpp/bin)
llama_cpp_python_install_target(llama-common)
# Libraries that are chosen when the engine starts: it looks for them beside its program, and is told where it is part of
# another (cpu_library.py).
if (GGML_BACKEND_DL)
    foreach (backend IN LISTS GGML_AVAILABLE_BACKENDS)
        set_target_properties(${backend} PROPERTIES INSTALL_RPATH "$ORIGIN/../lib" BUILD_WITH_INSTALL_RPATH TRUE)
        install(TARGETS ${backend} LIBRARY DESTINATION ${SKBUILD_PLATLIB_DIR}/llama_cpp/bin)
    endforeach ()
endif ()
