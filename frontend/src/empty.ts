/** Stands in for zarrita, by which NiiVue would read Zarr stores: half a megabyte of WebAssembly that no page here needs. */
export {};
